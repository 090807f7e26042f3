"""Files in, files out, through a model and without any Redis."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from ..consumer.engine import Engine, LabelLogits, ServedModel, Tokens
from ..consumer.engine.packing import classify_all
from ..consumer.engine.scoring import answer
from ..producer.formats import Broken, Format, Record, check, read, writer_of
from ..producer.formats.opening import STDIN
from ..schemas import AbstreamError
from .exits import DONE, ERROR, SOME_REFUSED
from .progress import bar

CHUNK = 256  # records in hand at a time


@dataclass
class Tally:
    """What became of the records of some files."""

    done: int = 0
    broken: int = 0
    refused: int = 0

    def summary(self, verb: str) -> str:
        """One line for a person."""
        said = [f"{self.done} {verb}"]
        said += [f"{self.broken} broken, left out"] if self.broken else []
        said += [f"{self.refused} of them refused"] if self.refused else []
        return ", ".join(said)

    @property
    def exit_code(self) -> int:
        """0 done, 1 nothing could be done, 3 done but for some."""
        if not (self.broken or self.refused):
            return DONE
        return SOME_REFUSED if self.done else ERROR


def usable(paths: Sequence[str], wanted: Format, tally: Tally) -> Iterator[Record]:
    """The records of all files; broken ones are reported on stderr with their place.

    Raises:
        AbstreamError: one of the files cannot be read or is of no known format: at once, not when its turn comes.
    """
    for path in paths:
        with _readable(path):
            check(path, wanted)
    return _usable(paths, wanted, tally)


def _usable(paths: Sequence[str], wanted: Format, tally: Tally) -> Iterator[Record]:
    for path in paths:
        with _readable(path):
            for record in read(path, wanted):
                if isinstance(record, Broken):
                    tally.broken += 1
                    print(f"{path}: {record}", file=sys.stderr)
                else:
                    yield record


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AbstreamError(f"cannot read {path}: {error.strerror}") from error


def classify(
    engine: Engine, records: Iterable[Record], max_batch_tokens: int
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """Yield each record, in order, with its answers, review and model, as plain JSON values."""
    records = iter(records)
    while chunk := list(islice(records, CHUNK)):
        prompts = [engine.encode(record.abstract) for record in chunk]
        answered = classify_all(engine, prompts, max_batch_tokens)
        for record, prompt, logits in zip(chunk, prompts, answered, strict=True):
            yield record, _predicted(engine.model, prompt, logits)


def _predicted(model: ServedModel, prompt: Tokens, logits: LabelLogits) -> dict[str, Any]:
    answers, review = answer(model, logits)
    return {
        "answers": {question: one.model_dump() for question, one in answers.items()},
        "review": review.model_dump(),
        "truncated": prompt.truncated,
        "model": model.receipt.model_dump(),
    }


def classify_files(
    load_engine: Callable[[], Engine], paths: list[str], wanted: Format, out: str, max_batch_tokens: int
) -> Tally:
    """Classify every record of ``paths`` into ``out``, whose name tells its format; ``-`` is stdout as JSON lines.

    Raises:
        AbstreamError: ``out`` tells no format, is one of ``paths`` or cannot be written, or a file cannot be read.
        OSError: the disk is full.
    """
    tally = Tally()
    writer = writer_of(out)
    records = usable(paths, wanted, tally)
    with _written(out, paths, tally) as file:
        engine = load_engine()  # only now: wrong names are reported before
        rows = writer(file, engine.model.task.questions)
        with bar("classified", None) as show:
            for record, predicted in classify(engine, records, max_batch_tokens):
                rows.write(record, predicted)
                tally.done += 1
                show(tally.done)
        rows.finish()
    return tally


@contextmanager
def _written(out: str, paths: Sequence[str], tally: Tally) -> Iterator[BinaryIO]:
    """The file to write into, or standard output.

    It appears under its name, in place of an earlier one, only when it is complete, and not if no record was usable.
    """
    if out == STDIN:
        yield sys.stdout.buffer
        return
    target = Path(out)
    if target.exists() and any(Path(path).exists() and target.samefile(path) for path in paths if path != STDIN):
        raise AbstreamError(f"{out} is also an input, and its broken records would be lost: give --out another name")
    unfinished = Path(f"{out}.part")
    try:
        file = unfinished.open("wb")
    except OSError as error:
        raise AbstreamError(f"cannot write {out}: {error.strerror}") from error
    try:
        with file:
            yield file
        if tally.exit_code != ERROR:
            unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
