"""``abstream train`` and ``abstream evaluate``: from flags to a measured adapter, its report, and the gate's word."""

import json
import platform
import shlex
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..consumer.engine import Engine
from ..consumer.engine.config import EngineConfig
from ..consumer.engine.merging import device_of
from ..consumer.engine.phi3 import Phi3Engine
from ..schemas import ONCOLOGY, AbstreamError, Task, VerifiedAdapter
from ..schemas.events import Gate
from ..training.config import TrainConfig
from ..training.data import load
from ..training.evaluate import Comparison, QuestionMetrics, flat, measured
from ..training.evaluate import table as rows_of
from ..training.finetune import Outcome, compare, finetune
from ..training.gate import Rule, as_event, check, judge
from ..training.report import write_report
from .progress import bar
from .settings import shipped_model, without_password

_VERSIONS = ("abstream", "torch", "transformers", "peft", "accelerate", "datasets", "tokenizers")
_WIDTH = 160  # of the table where nobody watches


def train(
    config: TrainConfig, out: Path, gate: tuple[Rule, ...], live: Callable[[], VerifiedAdapter | None], *, as_json: bool
) -> tuple[VerifiedAdapter, Gate] | None:
    """Fine-tune into ``out``, write the report, print the figures, and judge. None in all processes but the main one.

    Args:
        config: names data, base model and every knob.
        out: gets ``adapter/``, ``config.json``, ``metrics.json`` and ``report.html``.
        gate: the rules; a gate without any is passed.
        live: the adapter that is live; asked only where a rule is relative, and before any training.
        as_json: print for programs.
    """
    _check(config, gate)
    rival = live() if any(rule.relative for rule in gate) else None
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT reads it
    with bar("fine-tuning, %", 100) as show:
        outcome = finetune(config, out, lambda done: show(int(100 * done)), shipped_model(config.model))
    if outcome is None:
        return None
    facts = _facts() | {"adapter": outcome.adapter.digest, "config": config.model_dump_json(indent=2)}
    report = out / "report.html"
    write_report(report, f"{config.name} {config.version}", outcome.comparisons, outcome.progress.history, facts)
    verdict = _judge(config, outcome, gate, rival)
    about = {"adapter": str(outcome.adapter.path), "digest": outcome.adapter.digest, "report": str(report)}
    _show(outcome.comparisons, about | ({"gate": verdict.model_dump(mode="json")} if gate else {}), as_json=as_json)
    return outcome.adapter, verdict


def evaluate(
    data: str, baseline_data: str | None, bare: Engine, adapted: Engine, report: Path | None, *, as_json: bool
) -> None:
    """Print the figures of ``adapted`` on labelled data, beside those of ``bare`` and of the baselines.

    Args:
        data: labelled abstracts, as for ``train``.
        baseline_data: what the baselines learn from; those that learn are left out where None.
        bare: the base model; ``adapted`` itself where there is no adapter.
        adapted: what is measured.
        report: where an HTML report goes.
        as_json: print for programs.
    """
    task = adapted.model.task
    known = load(baseline_data, task) if baseline_data else []
    comparisons = compare(known, load(data, task), bare, adapted, adapted.model.calibration)
    receipt = adapted.model.receipt
    about = {"data": data, "model": receipt.model_dump(mode="json")}
    if report:
        name = receipt.adapter or receipt.base
        write_report(report, f"{name} on {Path(data).name}", comparisons, (), _facts() | {"model": json.dumps(about)})
        about |= {"report": str(report)}
    _show(comparisons, about, as_json=as_json)


def _check(config: TrainConfig, gate: tuple[Rule, ...]) -> None:
    """What else would be found wrong only after the training."""
    check(gate, Task.from_file(config.task) if config.task else ONCOLOGY)
    device_of(config.device)
    if config.card_notes and not config.card_notes.is_file():
        raise AbstreamError(f"--card-notes {config.card_notes}: there is no such file")


def _judge(config: TrainConfig, outcome: Outcome, gate: tuple[Rule, ...], rival: VerifiedAdapter | None) -> Gate:
    """The gate's word; relative rules are held against ``rival``, or the bare base, on the same abstracts."""
    after = flat(one.metrics["after"] for one in outcome.comparisons.values())
    before = flat(one.metrics["before"] for one in outcome.comparisons.values())
    if rival:
        served = EngineConfig(
            model=shipped_model(config.model),
            revision=config.model_revision,
            device=config.device,
            max_prompt_tokens=config.max_prompt_tokens,
        )
        before = flat(measured(Phi3Engine(served, adapter=rival), outcome.test).values())
    return as_event(judge(gate, outcome.adapter.manifest.task.questions[0].name, after, before))


def _facts() -> dict[str, str]:
    """What a reader needs to repeat the run, besides the data."""
    return {
        "command": shlex.join(["abstream", *map(without_password, sys.argv[1:])]),
        "versions": "\n".join(f"{name} {version(name)}" for name in _VERSIONS),
        "machine": f"Python {platform.python_version()}, {platform.system()} {platform.machine()}",
    }


def _show(comparisons: Mapping[str, Comparison], about: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        metrics = {
            name: {who: one.as_json() for who, one in each.metrics.items()} for name, each in comparisons.items()
        }
        print(json.dumps(about | {"metrics": metrics}))
        return
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    for name, each in comparisons.items():
        console.print(_table(name, each.metrics))
    for what, said in about.items():
        print(f"{what}: {json.dumps(said) if isinstance(said, dict) else said}")


def _table(question: str, metrics: Mapping[str, QuestionMetrics]) -> Table:
    heading, *rows = rows_of(metrics)
    shown = Table(title=f"{question}: {metrics['after'].n} abstracts, 95 % intervals", title_justify="left")
    for name in heading:
        shown.add_column(name, justify="right" if name else "left")
    for row in rows:
        shown.add_row(*row)
    return shown
