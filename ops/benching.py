"""``abstream bench …``: the benchmarks. A table for ``bench/RESULTS.md``, and one JSON line last, for programs."""

import json
import sys
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .bench.training import CASES
from .settings import option

if TYPE_CHECKING:
    from .cli import Common


@click.group()
def bench() -> None:
    """Run a benchmark; prints a table, then one JSON line."""


@bench.command()
@option("beside", multiple=True, help="What to compare the worker with; all by default, FastStream if installed.")
@option("entries", type=click.IntRange(min=64), default=20_000, help="Abstracts per turn.")
@option("rounds", type=click.IntRange(min=1), default=5, help="Turns of each contestant.")
@option("rate", type=click.IntRange(min=1), default=200, help="Abstracts a second while measuring latency.")
@option(
    "seconds", type=click.IntRange(min=1), default=20, help="How long to measure latency, and then the idle worker."
)
@click.pass_obj
def stream(common: "Common", beside: tuple[str, ...], entries: int, rounds: int, rate: int, seconds: int) -> None:
    """Measure the worker's plumbing, with an engine that costs nothing, beside a bare client and FastStream."""
    from .bench.contestants import CONTESTANTS
    from .bench.stream import Load, measure, table

    if unknown := set(beside) - set(CONTESTANTS):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(CONTESTANTS)}", param_hint="--beside")
    load = Load(entries, rounds, rate, seconds)
    names = beside or tuple(CONTESTANTS)
    found = measure(common.redis_url, load, names, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command(context_settings={"ignore_unknown_options": True})
@option(
    "data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder with abstracts/, cancer_types/ and neoplasm/; their READMEs name the sources.",
)
@option("set", type=click.Choice(list(CASES)), multiple=True, help="All by default.")
@option(
    "out", type=click.Path(file_okay=False, path_type=Path), default=Path("runs/bench"), help="Folder for the runs."
)
@click.argument("flags", nargs=-1, type=click.UNPROCESSED)
def training(data: Path, set: tuple[str, ...], out: Path, flags: tuple[str, ...]) -> None:
    """Measure fine-tuning on real abstracts, beside the baselines. FLAGS are those of abstream train."""
    from .bench.training import measure, table

    found = measure(data, set or tuple(CASES), out, flags)
    _print(table(found["sets"]), found)


@bench.command()
@option(
    "data",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="Folder of PubMed XML with real records, which are repeated.",
)
@option(
    "records",
    type=click.IntRange(min=1),
    default=30_000,
    help="Records in all; a baseline file has as many as the default.",
)
@option("rounds", type=click.IntRange(min=1), default=3, help="Turns of each contestant.")
def parsing(data: Path, records: int, rounds: int) -> None:
    """Measure speed and memory of reading PubMed XML, beside pubmed_parser if installed."""
    from .bench.parsing import measure, table

    found = measure(data, records, rounds, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option("beside", multiple=True, help="What to compare the engine with; everything installed by default.")
@option(
    "model",
    type=click.Choice(["nano", "small"]),
    multiple=True,
    help="phi3-nano, or one of random weights; both by default.",
)
@option("rounds", type=click.IntRange(min=1), default=3, help="Turns of each contestant.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/bench"),
    help="Folder for converted models.",
)
def engine(beside: tuple[str, ...], model: tuple[str, ...], rounds: int, out: Path) -> None:
    """Measure the engine on one thread, beside transformers, CTranslate2, ONNX Runtime, OpenVINO and llama.cpp."""
    from .bench.engine import OURS, measure, table
    from .bench.peers import PEERS

    if unknown := set(beside) - set(PEERS):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(PEERS)}", param_hint="--beside")
    names = dict.fromkeys((*OURS, *(beside or PEERS)))
    found = measure(list(names), model or ("nano", "small"), rounds, out, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option("abstracts", type=click.IntRange(min=32), default=1_000, help="Abstracts per core and turn.")
@option("rounds", type=click.IntRange(min=1), default=5, help="Turns of each contestant.")
@option("dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Type of the weights.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/worker"),
    help="Folder for the workers' logs.",
)
def worker(abstracts: int, rounds: int, dtype: str, out: Path) -> None:
    """Measure whole workers beside the engine alone, and all cores beside one."""
    from .bench.worker import Load, measure, table

    found = measure(Load(abstracts, rounds, dtype), out, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option("model", type=click.Choice(["nano", "small"]), default="nano", help="phi3-nano, or one of random weights.")
@option("dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", help="Type of the weights.")
@option("count", type=click.IntRange(min=1), multiple=True, default=(1, 2, 4), help="Number of replicas; repeatable.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/replicas"),
    help="Folder for model and logs.",
)
def replicas(model: str, dtype: str, count: tuple[int, ...], out: Path) -> None:
    """Measure how much memory each further replica takes."""
    from .bench.replicas import measure, table

    found = measure(model, dtype, count, out / model, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option("rounds", type=click.IntRange(min=1), default=5, help="Starts of each program.")
@click.pass_obj
def start(common: "Common", rounds: int) -> None:
    """Measure how fast the client, the command line and a worker start."""
    from .bench.start import measure, table

    found = measure(common.redis_url, rounds, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option("beside", multiple=True, help="What to compare our training with; Trainer in both precisions by default.")
@option("model", type=click.Choice(["nano", "small"]), default="nano", help="phi3-nano, or one of random weights.")
@option("rounds", type=click.IntRange(min=1), default=3, help="Turns of each contestant.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/bench"),
    help="Folder for a random model.",
)
def train(beside: tuple[str, ...], model: str, rounds: int, out: Path) -> None:
    """Measure LoRA training on one thread, beside Hugging Face's Trainer with the same weights, LoRA and batches."""
    from .bench.train import CONTESTANTS, OURS, measure, table

    if unknown := set(beside) - set(CONTESTANTS):
        raise click.BadParameter(f"{', '.join(unknown)}: known are {', '.join(CONTESTANTS)}", param_hint="--beside")
    names = dict.fromkeys((*OURS, *(beside or CONTESTANTS)))
    found = measure(list(names), model, rounds, out / model, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@click.option("--dry-run", is_flag=True, help="Run all of it on the CPU with a tiny model; the figures mean nothing.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/gpu"),
    help="Folder for the random model.",
)
def gpu(dry_run: bool, out: Path) -> None:
    """Measure everything about a GPU, with random weights in the shape of Phi-3-mini."""
    from .bench.gpu import DRY_RUN, PHI3_MINI, measure, table

    plan, folder = (DRY_RUN, out / "dry") if dry_run else (PHI3_MINI, out)
    found = measure(plan, folder, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option("switches", type=click.IntRange(min=1), default=100, help="Number of switches.")
@option("workers", type=click.IntRange(min=1), default=4, help="Number of workers.")
@option("rate", type=click.FloatRange(min=1), default=20.0, help="Abstracts a second.")
@option("pause", metavar="SECONDS", type=click.FloatRange(min=0), default=1.0, help="Pause after each switch.")
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/switch"),
    help="Folder for the workers' logs.",
)
def switch(switches: int, workers: int, rate: float, pause: float, out: Path) -> None:
    """Switch between two adapters under load: what a switch costs, and whether each answer matches its receipt."""
    from .bench.switching import Load, measure, table

    sample = Path(str(files("abstream.ops.sample") / "train.jsonl"))
    found = measure(Load(switches, workers, rate, pause), sample, out, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)


@bench.command()
@option(
    "minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=30.0,
    help="How long; in less time what Redis keeps does not reach its full size.",
)
@option("workers", type=click.IntRange(min=1), default=2, help="Number of workers.")
@option(
    "share",
    type=click.FloatRange(min=0, min_open=True, max=1),
    default=0.7,
    help="Load, as a share of what the workers can do.",
)
@option(
    "out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("runs/soak"),
    help="Folder for logs and samples.",
)
def soak(minutes: float, workers: int, share: float, out: Path) -> None:
    """Run a long steady load; exit code 1 if memory grows or the metrics are wrong at the end."""
    from .bench.soak import Load, measure, table

    sample = Path(str(files("abstream.ops.sample") / "train.jsonl"))
    load = Load(minutes, workers, share)
    found = measure(load, sample, out, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)
    sys.exit(1 if found["missed"] else 0)


@bench.command()
@option("subscribers", type=click.IntRange(min=1), default=1_000, help="Number of streams of predictions.")
@option("rate", type=click.IntRange(min=1), default=500, help="Abstracts a second, one request each.")
@option("seconds", type=click.IntRange(min=1), default=20, help="How long.")
@option("cuts", type=click.IntRange(min=0), default=100, help="Subscribers that are cut off once and resume.")
@option("plain", is_flag=True, help="Subscribers do not accept gzip, as browsers do.")
@click.pass_obj
def gateway(common: "Common", subscribers: int, rate: int, seconds: int, cuts: int, plain: bool) -> None:
    """Measure the gateway, and check that every subscriber gets every event once and in order."""
    from .bench.gateway import Load, is_whole, measure, table

    load = Load(subscribers, rate, seconds, min(cuts, subscribers), not plain)
    found = measure(common.redis_url, load, say=lambda said: click.echo(said, err=True))
    _print(table(found), found)
    if not is_whole(found):
        sys.exit(1)


def _print(lines: Iterable[str], found: dict[str, Any]) -> None:
    click.echo("\n".join(lines))
    click.echo(json.dumps(found))
