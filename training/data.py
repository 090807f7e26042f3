"""Labelled abstracts: loaded by Hugging Face ``datasets``, checked before any training.

A column named like a question holds its label; the first question's may be called ``label`` (``id``, ``title``,
``text``, ``label``, ``cancer_type``). Where a label is missing, the question is not trained on; an answer to a
question that is asked only after another's answer implies that answer. Ids are never shown to a model.
"""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..schemas import Abstract, AbstreamError, Malformed, Question, Task

_FORMATS = {".jsonl": "json", ".json": "json", ".ndjson": "json", ".csv": "csv", ".parquet": "parquet"}
_NAMED = 5  # rows that an error names; of the others it tells how many


class DataInvalid(AbstreamError):
    """The labelled data contradicts itself or the task: correct the rows that are named."""


@dataclass(frozen=True)
class Labelled:
    """An abstract and the label of every question that it answers."""

    id: str
    abstract: Abstract
    answers: dict[str, str]


def load(source: str, task: Task) -> list[Labelled]:
    """Every record of a file, or of a Hugging Face data set's ``train`` split (or ``NAME:SPLIT``).

    Raises:
        DataInvalid: with the rows that are wrong, all kinds of wrong at once.
    """
    rows = _rows(source)
    problems: dict[str, list[int]] = defaultdict(list)
    records: list[Labelled] = []
    first: dict[str, Labelled] = {}
    for number, row in enumerate(rows, start=1):
        try:
            record = _labelled(row, number, task)
            if first.setdefault(record.id, record).answers != record.answers:
                raise ValueError(f"id {record.id!r} stood before with other labels")
            records.append(record)
        except ValueError as problem:
            problems[str(problem)].append(number)
    if problems:
        said = "; ".join(f"{problem}: {_name(numbers)}" for problem, numbers in problems.items())
        raise DataInvalid(f"{source}: {said}")
    if not records:
        raise DataInvalid(f"{source}: holds no record")
    return records


def learnable(records: Sequence[Labelled], task: Task, where: str) -> frozenset[str]:
    """The questions that have at least two different labels.

    A question that is always answered alike would only be learned as a constant: data of cancers alone, labelled
    with their type, must not teach that everything is Cancer.

    Raises:
        DataInvalid: there is no such question.
    """
    seen = {
        question.name: {one.answers[question.name] for one in records if question.name in one.answers}
        for question in task.questions
    }
    if names := frozenset(name for name, labels in seen.items() if len(labels) > 1):
        return names
    only = "; ".join(f"{name} is always {min(labels)}" for name, labels in seen.items() if labels)
    raise DataInvalid(f"{where}: one class only ({only}): add examples of another")


def split(records: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """A larger and a smaller part, the smaller with ``share`` of every combination of answers; by ``seed`` alone."""
    groups: dict[tuple[tuple[str, str], ...], list[Labelled]] = defaultdict(list)
    for record in records:
        groups[tuple(sorted(record.answers.items()))].append(record)
    larger: list[Labelled] = []
    smaller: list[Labelled] = []
    owed = 0.0
    for key in sorted(groups):
        group = sorted(groups[key], key=lambda record: record.id)
        random.Random(f"{seed} {key}").shuffle(group)
        owed += share * len(group)
        take = min(round(owed), len(group))
        owed -= take
        smaller += group[:take]
        larger += group[take:]
    return larger, smaller


def digest(records: Iterable[Labelled]) -> str:
    """``sha256:…`` over ids, texts and answers, whatever their order."""
    contents = ((one.id, one.abstract.title, one.abstract.abstract, sorted(one.answers.items())) for one in records)
    lines = "\n".join(sorted(map(repr, contents)))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def _rows(source: str) -> Iterable[dict[str, Any]]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    path = Path(source)
    try:
        if kind := _FORMATS.get(Path(source.removesuffix(".gz")).suffix.lower()):
            if not path.is_file():
                raise DataInvalid(f"{source}: there is no such file")
            return load_dataset(kind, data_files=str(path), split="train")
        name, _, part = source.partition(":")
        return load_dataset(name, split=part or "train")
    except DatasetGenerationError as error:
        raise DataInvalid(f"{source}: cannot be read: {error.__cause__ or error}") from error
    except (DatasetNotFoundError, FileNotFoundError, ConnectionError, ValueError) as error:
        known = "a file (.jsonl, .csv, .parquet, gzipped or not) nor a data set on the hub"
        raise DataInvalid(f"{source}: is neither {known}: {error}") from error


def _labelled(row: dict[str, Any], number: int, task: Task) -> Labelled:
    """One record, or ValueError with what is wrong, in words that do not depend on the row."""
    text = row.get("text") if row.get("text") is not None else row.get("abstract")
    try:
        abstract = Abstract.parse({"title": row.get("title") or None, "abstract": text or ""})
    except Malformed as problem:
        raise ValueError(problem.message) from None
    answers: dict[str, str] = {}
    for position, question in enumerate(task.questions):
        if (label := _label(row, question, first=position == 0)) is not None:
            _answer(answers, question.name, label)
            if question.asked_if:
                _answer(answers, question.asked_if.question, question.asked_if.label)
    if not answers:
        raise ValueError("no label")
    return Labelled(str(row.get("id") or row.get("pmid") or f"row {number}"), abstract, answers)


def _label(row: dict[str, Any], question: Question, *, first: bool) -> str | None:
    value = row.get(question.name)
    if value is None and first:
        value = row.get("label")
    if value is None or value == "":
        return None
    if value not in question.labels:
        raise ValueError(f"{question.name}: unknown label {str(value)[:60]!r}, known are {', '.join(question.labels)}")
    return str(value)


def _answer(answers: dict[str, str], question: str, label: str) -> None:
    if answers.setdefault(question, label) != label:
        raise ValueError(f"{question} is {answers[question]!r}, but a later answer is only possible for {label!r}")


def _name(rows: list[int]) -> str:
    named = ", ".join(map(str, rows[:_NAMED]))
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"row {named}" if len(rows) == 1 else f"rows {named}{more}"


def class_weights(records: Iterable[Labelled], question: Question) -> list[float]:
    """For each label the weight that makes all labels count alike: n / (labels seen * n of the label)."""
    counts = Counter(record.answers[question.name] for record in records if question.name in record.answers)
    return [counts.total() / (len(counts) * counts[label]) if counts[label] else 1.0 for label in question.labels]
