"""What fine-tuning phi3-nano achieves on real abstracts, beside the baselines, and how long it takes.

Each set is trained by the very command that users have, and measured on records that neither the adapter nor the
base model learned from.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...training.corpus import is_held_back, records
from .machine import machine

ROOT = Path(__file__).parents[2]
FOLDS = 7
Row = dict[str, Any]
Split = tuple[Iterable[Row], Iterable[Row]]  # to train on, to measure on


@dataclass(frozen=True)
class Case:
    """One data set: where it comes from, what is asked, and the figure that counts, over all splits together."""

    what: str
    question: str
    figure: str
    splits: Callable[[Path], Iterator[Split]]
    flags: tuple[str, ...] = ()


def _cancer(data: Path) -> Iterator[Split]:
    yield records(data / "abstracts/train.jsonl"), records(data / "abstracts/validation.jsonl")


def _cancer_folds(data: Path) -> Iterator[Split]:
    """Each record is in the test split once, and measured by an adapter that did not learn from it."""
    [(train, validation)] = _cancer(data)
    rows = [*train, *validation]
    random.Random(FOLDS).shuffle(rows)
    for fold in range(FOLDS):
        yield [row for place, row in enumerate(rows) if place % FOLDS != fold], rows[fold::FOLDS]


def _types(data: Path) -> Iterator[Split]:
    """The labels were made from the titles, so a fair test is on the text alone."""
    yield (
        records(data / "cancer_types/train.jsonl"),
        ({**row, "title": ""} for row in records(data / "cancer_types/validation.jsonl") if row["text"]),
    )


def _evidence(data: Path) -> Iterator[Split]:
    rows = list(records(data / "cancer_types/civic_train.jsonl"))
    yield (row for row in rows if not is_held_back(row)), filter(is_held_back, rows)


def _neoplasm(data: Path) -> Iterator[Split]:
    yield records(data / "neoplasm/train.jsonl.gz"), records(data / "neoplasm/validation.jsonl.gz")


CASES = {
    "cancer": Case("Cancer / Non-Cancer, trained on 600", "cancer", "accuracy", _cancer),
    "cancer-folds": Case(
        f"Cancer / Non-Cancer, {FOLDS} folds of 100, each by an adapter trained on the others",
        "cancer",
        "accuracy",
        _cancer_folds,
    ),
    "types": Case("cancer type, abstract without its title", "cancer_type", "macro_f1", _types),
    "evidence": Case("cancer type of CIViC evidence", "cancer_type", "macro_f1", _evidence),
    "neoplasm": Case(
        "neoplasm / other, a task file of its own",
        "neoplasm",
        "f1_Neoplasm",
        _neoplasm,
        ("--task", str(ROOT / "ops/sample/neoplasm-task.json")),
    ),
}


def measure(data: Path, sets: Sequence[str], out: Path, flags: Sequence[str]) -> Row:
    """Run every named set, and return the results as plain data; ``flags`` are those of ``abstream train``."""
    found = {name: run(CASES[name], data, out / name, flags) for name in sets}
    return {"machine": f"{machine()}, torch {version('torch')}", "flags": flags, "sets": found}


def run(case: Case, data: Path, out: Path, flags: Sequence[str]) -> Row:
    """Train and measure one case with ``abstream train``, once for each of its splits."""
    begun = time.monotonic()
    splits = [_trained(case, split, out / str(number), flags) for number, split in enumerate(case.splits(data))]
    seconds = time.monotonic() - begun
    sizes = [splits[0]["n"][0], sum(split["n"][1] for split in splits)]
    found = {who: _figure(case.figure, [split["metrics"][who] for split in splits]) for who in splits[0]["metrics"]}
    return {"n": sizes, "seconds": round(seconds), "figure": case.figure, "figures": found}


def _trained(case: Case, split: Split, out: Path, flags: Iterable[str]) -> Row:
    """How many records each part has, and the metrics of everyone who answered."""
    out.mkdir(parents=True, exist_ok=True)
    sizes = []
    for name, rows in zip(("train", "test"), split, strict=True):
        lines = [json.dumps(_kept(row)) + "\n" for row in rows]
        (out / f"{name}.jsonl").write_text("".join(lines))
        sizes.append(len(lines))
    command = [sys.executable, "-m", "abstream.ops", "train", "--json", "--out", str(out / "run"), *case.flags, *flags]
    files = ["--data", str(out / "train.jsonl"), "--test", str(out / "test.jsonl")]
    done = subprocess.run([*command, *files], check=True, stdout=subprocess.PIPE)
    return {"n": sizes, "metrics": json.loads(done.stdout)["metrics"][case.question]}


def _kept(row: Row) -> Row:
    kept = ("id", "title", "text", "label", "cancer_type")
    return {name: row[name] for name in kept if row.get(name) is not None}


def _figure(name: str, metrics: Sequence[Row]) -> list[float]:
    """The figure of one judge, over its answers in all splits."""
    import numpy as np

    from ...training.evaluate import figures

    counted = np.sum([np.array(one["confusion"], dtype=np.float64) for one in metrics], axis=0)
    accuracy, macro_f1, f1 = figures(metrics[0]["labels"], counted)
    named = {"accuracy": accuracy, "macro_f1": macro_f1}
    found = named.get(name) or f1[name.removeprefix("f1_")]
    return [found.value, found.low, found.high]


def table(found: dict[str, Row]) -> Iterator[str]:
    """The results as Markdown: a row for each case, in per cent with 95 % intervals."""
    judges = list(dict.fromkeys(judge for row in found.values() for judge in row["figures"]))
    yield f"| data | figure | trained on | measured on | {' | '.join(judges)} | seconds |"
    yield "|---" * (len(judges) + 5) + "|"
    for name, row in found.items():
        cells = [_cell(row["figures"].get(judge)) for judge in judges]
        about = [CASES[name].what, row["figure"], *map(str, row["n"])]
        yield f"| {' | '.join([*about, *cells, str(row['seconds'])])} |"


def _cell(figure: list[float] | None) -> str:
    if figure is None:
        return ""
    value, low, high = (100 * one for one in figure)
    return f"{value:.1f} [{low:.1f}–{high:.1f}]"
