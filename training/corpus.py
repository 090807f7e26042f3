"""The text the shipped base model may learn from, as abstracts.

Only sources whose licence allows weights to be shipped are read: CC BY, CC BY-SA, CC0, MIT. Everything
research-only, non-commercial or unstated is left out, though it lies in the same folder.
"""

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..schemas import Abstract
from ..schemas.events import MAX_TITLE_CHARACTERS

# File -> licence, as the data folder's README states them.
TEXTS = {
    "pretraining/elife.jsonl.gz": "CC BY 4.0 or CC0, per record",
    "pretraining/medquad.jsonl.gz": "CC BY 4.0",
    "pretraining/oncology-rct.jsonl.gz": "CC0",
    "pretraining/pathway-abstracts.jsonl.gz": "MIT",
    "pretraining/pubmedqa.jsonl.gz": "MIT",
    "pretraining/rct-fulltext-00.jsonl.gz": "CC BY, CC BY-SA or CC0, per record",
    "pretraining/rct-fulltext-01.jsonl.gz": "CC BY, CC BY-SA or CC0, per record",
    "pretraining/systematic-reviews.jsonl.gz": "MIT and CC BY 4.0",
}
# Records with a cancer type, and the sources among them that may be used.
TYPED = {"cancer_types/train.jsonl": {"oncology-rct", "pathway-abstracts"}, "cancer_types/civic_train.jsonl": {"civic"}}

_CHUNK_WORDS = 240  # about the length of an abstract


def texts(data: Path) -> Iterator[Abstract]:
    """Every permitted text as an abstract; full texts become one abstract with the title and chunks without."""
    for name in TEXTS:
        for record in _records(data / name):
            for number, chunk in enumerate(_chunks(record["text"])):
                yield _abstract(record["title"] if number == 0 else "", chunk)


def typed(data: Path) -> Iterator[tuple[Abstract, str]]:
    """Every permitted record that has a cancer type, with the type."""
    for name, sources in TYPED.items():
        for record in _records(data / name):
            if record["source"] in sources:
                yield _abstract(record["title"], record["text"]), record["cancer_type"]


def _abstract(title: str, text: str) -> Abstract:
    return Abstract(title=title[:MAX_TITLE_CHARACTERS] or None, abstract=text)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _chunks(text: str) -> Iterator[str]:
    """Whole sentences up to about the length of an abstract."""
    chunk: list[str] = []
    words = 0
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        length = sentence.count(" ") + 1
        if chunk and words + length > _CHUNK_WORDS:
            yield " ".join(chunk)
            chunk, words = [], 0
        chunk.append(sentence)
        words += length
    if words >= 30:
        yield " ".join(chunk)
