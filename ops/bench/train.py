"""How fast LoRA training is, beside Hugging Face's ``Trainer``, on one thread: the same base, LoRA and examples.

``Trainer`` runs padded batches and is told the label tokens, as its users write it. Both take whole steps: forward,
backward, clipping, AdamW. As in ``engine``, who takes part takes turns, each in a process of its own.
"""

import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from ...schemas import ONCOLOGY
from .engine import example_abstracts, model_folder, peak_mib
from .machine import processor

if TYPE_CHECKING:
    from ...training.objective import Example
    from ...training.recipe import Run

Precision = Literal["float32", "bfloat16"]

OURS = ("abstream bfloat16", "abstream float32")
BATCH = 8
IGNORED = -100  # of transformers: no loss for this token
PACKAGES = ("torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class Turn:
    """What one contestant needed for an example in one round."""

    cpu_milliseconds: float
    wall_milliseconds: float


Step = Callable[[], Turn]


@dataclass(frozen=True)
class Contestant:
    """``start`` turns a run and a batch into a function that takes one step; ``base`` is the base's dtype."""

    start: Callable[["Run", Sequence["Example"]], Step]
    base: Precision = "float32"


class Clock:
    """From one moment to another."""

    def __init__(self) -> None:
        self._begun = time.process_time(), time.perf_counter()

    def turn(self) -> Turn:
        """The time per example until now."""
        cpu, wall = (
            now - begun for now, begun in zip((time.process_time(), time.perf_counter()), self._begun, strict=True)
        )
        return Turn(1e3 * cpu / BATCH, 1e3 * wall / BATCH)


def measure(
    names: Collection[str],
    model: str,
    rounds: int,
    out: Path,
    say: Callable[[str], None],
    place: Callable[[], Executor] = lambda: ProcessPoolExecutor(1, get_context("spawn")),
) -> dict[str, Any]:
    """Run everything, and return the results as plain data.

    Args:
        names: who takes part, of ``CONTESTANTS``.
        model: ``nano`` or ``small``.
        rounds: turns of each.
        out: where a model of random weights is kept.
        say: called after each turn.
        place: where a contestant lives.
    """
    out.mkdir(parents=True, exist_ok=True)
    folder, turns = model_folder(model, out), {name: list[Turn]() for name in names}
    with ExitStack() as stack:
        own = {name: stack.enter_context(place()) for name in names}
        tokens = {name: own[name].submit(_start, name, folder).result() for name in names}
        for number in range(rounds):
            for name in names:
                turns[name].append(own[name].submit(_turn).result())
                say(f"round {number + 1} of {rounds}: {name}: {turns[name][-1].cpu_milliseconds:.0f} ms an abstract")
        peaks = {name: own[name].submit(peak_mib).result() for name in names}
    return {
        "bench": "train",
        "machine": f"{processor()}, one thread each",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
        "model": model,
        "batch": BATCH,
        "tokens": max(tokens.values()),
        "rounds": rounds,
        "contestants": {name: _row(turns, name, peaks[name]) for name in names},
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The results as Markdown."""
    yield f"{found['model']}: batches of {found['batch']}, {found['tokens']:.0f} tokens an abstract"
    yield ""
    yield f"| contestant | CPU ms | abstracts/s | {' | '.join(f'{name} ×' for name in OURS)} | peak MiB |"
    yield "|---" * (4 + len(OURS)) + "|"
    for name, row in found["contestants"].items():
        faster = (f"{row['ours_faster'][ours]:.2f}" if ours in row["ours_faster"] else "" for ours in OURS)
        yield (
            f"| {name} | {row['cpu_milliseconds']:.1f} | {1000 / row['cpu_milliseconds']:.2f} | {' | '.join(faster)}"
            f" | {row['peak_mib']:.0f} |"
        )


def _row(turns: dict[str, list[Turn]], name: str, peak: float) -> dict[str, Any]:
    return {
        "turns": [[turn.cpu_milliseconds, turn.wall_milliseconds] for turn in turns[name]],
        "cpu_milliseconds": statistics.median(turn.cpu_milliseconds for turn in turns[name]),
        "wall_milliseconds": statistics.median(turn.wall_milliseconds for turn in turns[name]),
        "ours_faster": {ours: _ratio(turns[ours], turns[name]) for ours in OURS if ours in turns and ours != name},
        "peak_mib": peak,
    }


def _ratio(ours: Sequence[Turn], theirs: Sequence[Turn]) -> float:
    """The median ratio of CPU time within a round."""
    return statistics.median(
        their.cpu_milliseconds / our.cpu_milliseconds for our, their in zip(ours, theirs, strict=True)
    )


_step: Step


def _start(name: str, folder: Path) -> float:
    """In the contestant's own process: load, and take a step to warm the caches; returns the tokens of an abstract."""
    global _step
    run, examples = _prepared(folder, CONTESTANTS[name].base)
    _step = CONTESTANTS[name].start(run, examples)
    _step()
    return statistics.mean(len(one.tokens.ids) for one in examples)


def _turn() -> Turn:
    """The second of two steps, since in training a step follows another: the first finds its memory cold."""
    _step()
    return _step()


def _prepared(folder: Path, precision: Precision) -> tuple["Run", list["Example"]]:
    """A run as ``abstream train`` makes it, and the examples of a batch."""
    from ...consumer.engine.weights import locate
    from ...training.config import TrainConfig
    from ...training.data import Labelled
    from ...training.objective import example
    from ...training.recipe import Run, Splits

    labels = ONCOLOGY.questions[1].labels
    records = [
        Labelled(str(number), abstract, {"cancer": "Cancer", "cancer_type": labels[number % len(labels)]})
        for number, abstract in enumerate(example_abstracts(BATCH))
    ]
    knobs = {"data": "", "device": "cpu", "threads": 1, "precision": precision, "max_prompt_tokens": 1_024}
    with TemporaryDirectory() as out:  # nothing is written: no epoch ends
        splits = Splits(ONCOLOGY, frozenset({"cancer", "cancer_type"}), records, records)
        run = Run(TrainConfig.model_validate(knobs), splits, locate(str(folder)), Path(out), lambda _: None)
    return run, [example(run.encoder, ONCOLOGY, one.abstract, one.answers) for one in records]


def ours(run: "Run", examples: Sequence["Example"]) -> Step:
    """The recipe's own step."""
    run.classifier.train()

    def step() -> Turn:
        clock = Clock()
        run.step([list(examples)], 0.5)
        return clock.turn()

    return step


def trainer(run: "Run", examples: Sequence["Example"], *, bf16: bool) -> Step:
    """``Trainer``'s own step, over the same PEFT model; bfloat16 is its autocast."""
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    turns: list[Turn] = []

    class Timed(TrainerCallback):
        """Times the step alone, from batch to updated weights: what else ``Trainer`` does is not counted."""

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.clock = Clock()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            turns.append(self.clock.turn())

    arguments = TrainingArguments(
        str(run.out),
        per_device_train_batch_size=len(examples),
        learning_rate=run.config.learning_rate,
        weight_decay=run.config.weight_decay,
        bf16=bf16,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_steps=1,
    )
    rows: Any = [_with_labels(run, one) for one in examples]
    made = Trainer(run.model, arguments, data_collator=_padded, train_dataset=rows, callbacks=[Timed()])
    made.remove_callback(PrinterCallback)

    def step() -> Turn:
        made.train()
        return turns.pop()

    return step


CONTESTANTS = {
    "abstream bfloat16": Contestant(ours, "bfloat16"),
    "abstream float32": Contestant(ours),
    "Trainer float32": Contestant(partial(trainer, bf16=False)),
    "Trainer bfloat16": Contestant(partial(trainer, bf16=True)),
}


def _with_labels(run: "Run", one: "Example") -> dict[str, list[int]]:
    """The prompt's ids, with the right label token as the target at each slot."""
    ids, labels = list(one.tokens.ids), [IGNORED] * (len(one.tokens.ids) + 1)
    for slot, answer in zip(run.encoder.slots, one.answers, strict=True):
        labels[len(ids) + slot.offset + 1] = slot.labels[answer]
    return {"input_ids": [*ids, slot.labels[answer]], "labels": labels}


def _padded(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, filling: int) -> Any:
        return torch.tensor([row[name] + [filling] * (longest - len(row[name])) for row in rows])

    shown = torch.tensor([[int(place < len(row["labels"])) for place in range(longest)] for row in rows])
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", IGNORED), "attention_mask": shown}
