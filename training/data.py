"""Labelled abstracts, read from a file or by Hugging Face ``datasets`` and checked before any training.

The label of a question is in the column of its name; that of the first question may be in ``label`` (``id``, ``title``,
``text``, ``label``, ``cancer_type``). A record without a label for a question is not trained on that question. The
answer to a conditional question implies its condition. Ids are never shown to a model.

JSON and CSV are read without ``datasets``, which guesses a type for each column: the id 007 would become 7, the label
None no label, and a column that is empty for the first ten megabytes an error.
"""

import csv
import gzip
import hashlib
import json
import random
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..schemas import Abstract, AbstreamError, Malformed, Question, Task

_FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
_TEXTS = ("title", "text", "abstract")
_NAMED = 5  # rows that an error names; the others it counts
_KINDS = 10  # of problems that an error describes


class DataInvalid(AbstreamError):
    """The labelled data contradicts itself or the task: correct the named rows."""


@dataclass(frozen=True)
class Labelled:
    """An abstract and its labels, by question."""

    id: str
    abstract: Abstract
    answers: dict[str, str]

    @property
    def text(self) -> str:
        """The normalised text, or the title if there is no text; records that share it count as the same abstract."""
        return " ".join((self.abstract.abstract.strip() or self.abstract.title or "").split()).casefold()


def load(source: str, task: Task) -> list[Labelled]:
    """Load the records of a file, or of a Hugging Face data set: its ``train`` split, or as ``NAME:SPLIT``.

    Raises:
        DataInvalid: rows are invalid, in which case all kinds of problems are named at once; or there is no record.
    """
    problems: dict[str, list[int]] = defaultdict(list)
    records: list[Labelled] = []
    first: dict[str, tuple[int, Labelled]] = {}
    for number, row in enumerate(_rows(source), start=1):
        if isinstance(row, str) and not row.strip():
            continue
        try:
            record = _labelled(row, f"{Path(source).name}:{number}", task)
        except ValueError as problem:
            problems[str(problem)].append(number)
            continue
        before, same = first.setdefault(record.id, (number, record))
        if same.answers != record.answers:
            of_id = problems[f"the id {record.id!r} has different labels"]
            of_id += [number] if of_id else [before, number]
        records.append(record)
    if problems:
        raise DataInvalid(f"{source}: {_all_of(problems)}")
    if not records:
        raise DataInvalid(f"{source}: holds no record")
    return records


def learnable(records: Sequence[Labelled], task: Task, where: str) -> frozenset[str]:
    """The questions that have at least two different labels.

    A question with a single label would be learned as a constant: data about cancers alone, labelled with their type,
    must not teach that everything is Cancer.

    Raises:
        DataInvalid: there is no such question.
    """
    seen = {
        question.name: {one.answers[question.name] for one in records if question.name in one.answers}
        for question in task.questions
    }
    if names := frozenset(name for name, labels in seen.items() if len(labels) > 1):
        return names
    only = ", ".join(f"{name} is always {min(labels)}" for name, labels in seen.items() if labels)
    raise DataInvalid(f"{where}: one class only ({only or 'no record'}): add examples of another")


def unseen(records: Sequence[Labelled], judged_on: Iterable[Labelled]) -> list[Labelled]:
    """The records whose text is not in ``judged_on``. Ids are not compared: two files may both number their rows."""
    texts = {record.text for record in judged_on}
    return [record for record in records if record.text not in texts]


def split(records: Sequence[Labelled], share: float, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """Split into a larger and a smaller part, the smaller with ``share`` of every combination of answers.

    The order of the records does not matter. Those with the same id or the same text stay on one side.
    """
    strata: dict[tuple[tuple[str, str], ...], list[list[Labelled]]] = defaultdict(list)
    for family in _families(records):
        strata[tuple(sorted(family[0].answers.items()))].append(family)
    larger: list[Labelled] = []
    smaller: list[Labelled] = []
    owed = 0.0
    for answers in sorted(strata):
        families = strata[answers]
        random.Random(f"{seed} {answers}").shuffle(families)
        owed += share * sum(map(len, families))
        for family in families:
            if len(family) <= round(owed):
                smaller += family
                owed -= len(family)
            else:
                larger += family
    return larger, smaller


def digest(records: Iterable[Labelled]) -> str:
    """``sha256:…`` over ids, texts and answers, independent of their order."""
    contents = ((one.id, one.abstract.title, one.abstract.abstract, sorted(one.answers.items())) for one in records)
    lines = "\n".join(sorted(map(repr, contents)))
    return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


def class_weights(records: Iterable[Labelled], question: Question) -> list[float]:
    """For each label the weight that balances the classes: n / (labels seen * n of the label), or 1 if unseen."""
    counts = Counter(record.answers[question.name] for record in records if question.name in record.answers)
    return [counts.total() / (len(counts) * counts[label]) if counts[label] else 1.0 for label in question.labels]


def _families(records: Sequence[Labelled]) -> list[list[Labelled]]:
    """Groups of records that share an id or a text, directly or through others; in the order of their ids."""
    family_of: dict[tuple[str, str], list[Labelled]] = {}
    for record in sorted(records, key=lambda record: (record.id, record.text)):
        by_id, by_text = ("id", record.id), ("text", record.text)
        family = family_of.get(by_id) or family_of.get(by_text) or []
        if (other := family_of.get(by_text, family)) is not family:
            family += other
            family_of |= {key: family for one in other for key in (("id", one.id), ("text", one.text))}
        family.append(record)
        family_of[by_id] = family_of[by_text] = family
    return list({id(family): family for family in family_of.values()}.values())


def _rows(source: str) -> list[Any]:
    """The rows of a source, as lines of JSON or as mappings of column to value."""
    path = Path(source)
    kind = Path(source.removesuffix(".gz")).suffix.lower()
    if kind not in _FORMATS:
        if path.is_file():
            raise DataInvalid(f"{source}: is none of {', '.join(_FORMATS)}, gzipped or not: convert or rename it")
        return _from_hub(source)
    if not path.is_file():
        raise DataInvalid(f"{source}: there is no such file")
    try:
        if kind == ".parquet":
            return _from_parquet(path)
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8-sig", newline="") as file:
            return _from_csv(file) if kind == ".csv" else _from_json(file)
    except UnicodeDecodeError as error:
        raise DataInvalid(f"{source}: cannot be read: it is not UTF-8: save it as UTF-8") from error
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise DataInvalid(f"{source}: cannot be read: {error}") from error


def _from_csv(file: Iterable[str]) -> list[Any]:
    rows = csv.DictReader(file)
    names = rows.fieldnames or ()
    if names and not {*_TEXTS} & {*names}:
        said = f"none of {', '.join(_TEXTS)}"
        raise ValueError(f"the header has {said}, but {', '.join(names)}: name the columns so, with commas between")
    return list(rows)


def _from_json(file: Iterable[str]) -> list[Any]:
    lines = list(file)
    is_one_list = bool(lines) and lines[0].lstrip().startswith("[")
    return list(json.loads("".join(lines))) if is_one_list else lines


def _from_parquet(path: Path) -> list[Any]:
    from datasets import Dataset

    # A cache of its own: the shared one identifies a file by its name and the second of its last change.
    with TemporaryDirectory() as cache:
        return _with_label_names(Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True))


def _from_hub(source: str) -> list[Any]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()

    name, _, part = source.partition(":")
    try:
        return _with_label_names(load_dataset(name, split=part or "train"))
    except (DatasetsError, OSError, ValueError) as error:  # ConnectionError is an OSError
        known = f"a file ({', '.join(_FORMATS)}, gzipped or not) nor a data set on the hub"
        raise DataInvalid(f"{source}: is neither {known}: {error}") from error


def _with_label_names(read: Any) -> list[dict[str, Any]]:
    """The rows of a ``datasets.Dataset``, with the names of labels that it stores as numbers."""
    from datasets import ClassLabel

    numbered = {name: kind for name, kind in read.features.items() if isinstance(kind, ClassLabel)}
    return [
        row | {name: kind.int2str(row[name]) for name, kind in numbered.items() if row[name] not in (None, -1)}
        for row in read
    ]


def _labelled(row: Any, where: str, task: Task) -> Labelled:
    """The record in a row.

    Args:
        row: a line of JSON, or a mapping of column to value.
        where: used as the id if the row has none.

    Raises:
        ValueError: the row is invalid. The message does not name the row, so that rows can be grouped by it.
    """
    values = _parsed(row)
    text = values.get("text") or values.get("abstract")
    try:
        abstract = Abstract.parse({"title": values.get("title") or None, "abstract": text or ""})
    except Malformed as problem:
        raise ValueError(problem.message) from None
    answers: dict[str, str] = {}
    for position, question in enumerate(task.questions):
        if (label := _label(values, question, first=position == 0)) is not None:
            _answer(answers, question.name, label)
            if question.asked_if:
                _answer(answers, question.asked_if.question, question.asked_if.label)
    if not answers:
        columns = [f"'{name}'" for name in ("label", *(question.name for question in task.questions))]
        raise ValueError(f"no label: fill {', '.join(columns[:-1])} or {columns[-1]}")
    named = next((str(values[key]) for key in ("id", "pmid") if values.get(key) not in (None, "")), where)
    return Labelled(named, abstract, answers)


def _parsed(row: Any) -> dict[str, Any]:
    try:
        values = json.loads(row) if isinstance(row, str) else row
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - an invalid row, like every other
    if None in values:
        raise ValueError("more fields than the header")
    return values


def _label(row: dict[str, Any], question: Question, *, first: bool) -> str | None:
    value = row.get(question.name)
    if first and value in (None, ""):
        value = row.get("label")
    if value is None or value == "":
        return None
    written = str(value)
    if written in question.labels:
        return written
    alike = [label for label in question.labels if _plain(label) == _plain(written)]
    if len(alike) != 1:
        raise ValueError(f"{question.name}: unknown label {written[:60]!r}, known are {', '.join(question.labels)}")
    return alike[0]


def _plain(label: str) -> str:
    """A label without case and separators: a column may have ``non_cancer`` for ``Non-Cancer``."""
    return re.sub(r"[\s_-]+", "_", label.strip()).casefold()


def _answer(answers: dict[str, str], question: str, label: str) -> None:
    if answers.setdefault(question, label) != label:
        raise ValueError(f"{question} is {answers[question]!r}, but a later answer is only possible for {label!r}")


def _all_of(problems: dict[str, list[int]]) -> str:
    said = [f"{problem}: {_list_rows(numbers)}" for problem, numbers in islice(problems.items(), _KINDS)]
    more = [f"and {len(problems) - _KINDS} more kinds"] if len(problems) > _KINDS else []
    return "; ".join(said + more)


def _list_rows(rows: list[int]) -> str:
    named = ", ".join(map(str, rows[:_NAMED]))
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return f"row {named}" if len(rows) == 1 else f"rows {named}{more}"
