"""``abstream train``, ``evaluate``, ``admit``: what is learned from labelled abstracts, and measured on them."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..training.config import TrainConfig
from .exits import DONE, GATE_FAILED, say
from .settings import (
    STORE_HELP,
    build,
    config_options,
    engine_options,
    option,
    sign_key_option,
)

if TYPE_CHECKING:
    from .cli import Common


@click.command(short_help="Fine-tune an adapter on labelled abstracts, and judge it.")
@config_options(TrainConfig)
@option("out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/train"), help="Folder of the run.")
@option(
    "gate",
    help="Such as accuracy>=0.90,macro_f1>=+0.02; a sign means beside the live adapter. Exit code 4 if it fails.",
)
@option("release", is_flag=True, help="Announce the adapter to the workers if it passes the gate.")
@option("store", help=STORE_HELP)
@sign_key_option
@option("json", is_flag=True, help="Print JSON.")
@click.pass_obj
def train(
    common: "Common",
    /,
    out: Path,
    gate: str | None,
    release: bool,
    store: str | None,
    sign_key: Path | None,
    json: bool,
    **knobs: Any,
) -> None:
    """Fine-tune an adapter on labelled abstracts, measure it before and after, calibrate it and judge it."""
    if release and not store:
        raise click.UsageError("--release needs --store, where the workers find the adapter")
    config = build(TrainConfig, knobs)
    from ..training.gate import parse
    from .adapters import announce, live_adapter
    from .training import train as train_adapter

    common.open_log()
    rules = parse(gate) if gate else ()
    trained = train_adapter(config, out, rules, lambda: live_adapter(common.url, common.shards), as_json=json)
    if trained is None:
        return
    adapter, verdict = trained
    if not verdict.passed:
        say("the adapter did not pass the gate, so nothing was announced: " + "; ".join(verdict.rules))
        sys.exit(GATE_FAILED)
    if release and store:
        asyncio.run(announce(common.url, common.shards, adapter.path, store, verdict if gate else None, sign_key))


@click.command(short_help="Measure a model or adapter on labelled abstracts.")
@option("data", required=True, help="Labelled .jsonl, .csv or .parquet, gzipped or not; or a Hugging Face data set.")
@option("baseline-data", help="Data on which to train the learning baselines; without it they are left out.")
@option("report", type=click.Path(dir_okay=False, path_type=Path), help="Write an HTML report to this file.")
@option("json", is_flag=True, help="Print JSON.")
@engine_options
def evaluate(data: str, baseline_data: str | None, report: Path | None, json: bool, **flags: Any) -> None:
    """Measure a model or adapter on labelled abstracts, beside the baselines."""
    from .training import evaluate as measure
    from .working import load_engine

    adapted = load_engine(flags)
    bare = load_engine(flags | {"adapter": "none"}, adapted.model.task) if adapted.model.receipt.adapter else adapted
    measure(data, baseline_data, bare, adapted, report, as_json=json)


@click.command(short_help="Allow --dtype int8 or fp8, if accuracy holds.")
@option("data", required=True, help="Labelled abstracts, as for evaluate.")
@option("json", is_flag=True, help="Print JSON.")
@engine_options
def admit(data: str, json: bool, **flags: Any) -> None:
    """Let this user's workers use --dtype int8 or fp8, if it costs at most 0.3 points of accuracy.

    It holds for the adapter that --adapter names. Exit code 4 if it costs more: then workers go on in bfloat16.
    """
    from .admitting import GATED, PLAIN, shown
    from .admitting import admit as measure
    from .working import load_engine

    if flags["dtype"] not in GATED:
        raise click.UsageError(f"--dtype {flags['dtype']} needs no admission: only {' and '.join(GATED)} do")
    found = measure(data, load_engine(flags), load_engine(flags | {"dtype": PLAIN}))
    click.echo(shown(found, as_json=json))
    sys.exit(DONE if found.passed else GATE_FAILED)
