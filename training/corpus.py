"""The texts that the shipped base model may learn from, as abstracts.

Only sources whose licence allows weights to be shipped are read: CC BY, CC BY-SA, CC0, MIT. Sources in the same folder
with a research-only, non-commercial or unstated licence are left out. So is what the model is judged on: every record
with the title of a validation record, and the CIViC statements of a tenth of the articles (``is_held_back``).
"""

import gzip
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..schemas import Abstract
from ..schemas.events import MAX_TITLE_CHARACTERS

MOLECULAR = "pretraining/pathway-abstracts.jsonl.gz"  # about genes and signalling, cancer or not

# File -> licence, as the data folder's README states them.
TEXTS = {
    "pretraining/elife.jsonl.gz": "CC BY 4.0 or CC0, per record",
    "pretraining/medquad.jsonl.gz": "CC BY 4.0",
    "pretraining/oncology-rct.jsonl.gz": "CC0",
    MOLECULAR: "MIT",
    "pretraining/pubmedqa.jsonl.gz": "MIT",
    "pretraining/rct-fulltext-00.jsonl.gz": "CC BY, CC BY-SA or CC0, per record",
    "pretraining/rct-fulltext-01.jsonl.gz": "CC BY, CC BY-SA or CC0, per record",
    "pretraining/systematic-reviews.jsonl.gz": "MIT and CC BY 4.0",
}
# Records with a cancer type, and the sources among them that may be used.
TYPED = {"cancer_types/train.jsonl": {"oncology-rct", "pathway-abstracts"}, "cancer_types/civic_train.jsonl": {"civic"}}
ONTOLOGY = "lexicon/DO_cancer_slim.obo"  # names and definitions of cancers, CC0
# Records with a title in these files are left out.
JUDGED_ON = ("abstracts/validation.jsonl", "cancer_types/validation.jsonl", "neoplasm/validation.jsonl.gz")

_CHUNK_WORDS = 240  # about the length of an abstract


def texts(data: Path, names: Iterable[str] = TEXTS) -> Iterator[Abstract]:
    """Every permitted text as abstracts. A full text becomes several, of which the first has the title."""
    judged_on = _titles(data)
    for name in names:
        for record in records(data / name):
            if _normalized(record["title"]) in judged_on:
                continue
            for number, chunk in enumerate(_chunks(record["text"])):
                yield _abstract(record["title"] if number == 0 else "", chunk)


def typed(data: Path) -> Iterator[tuple[Abstract, str]]:
    """Every permitted record with a cancer type, and that type."""
    judged_on = _titles(data)
    for name, sources in TYPED.items():
        for record in records(data / name):
            held_back = is_held_back(record) or _normalized(record["title"]) in judged_on
            if record["source"] in sources and not held_back:
                yield _abstract(record["title"], record["text"]), record["cancer_type"]


def terms(data: Path) -> Iterator[Abstract]:
    """Every cancer of the Disease Ontology (OBO): its name as the title, its definition and synonyms as the text."""
    for term in (data / ONTOLOGY).read_text(encoding="utf-8").split("\n[Term]\n")[1:]:
        name = re.findall(r"^name: (.+)$", term, re.MULTILINE)
        told = re.findall(r'^(?:def|synonym): "([^"]+)"', term, re.MULTILINE)
        if name and told:
            yield _abstract(name[0], ". ".join(told).replace("_", " "))


def is_held_back(record: Mapping[str, Any]) -> bool:
    """Whether a CIViC statement belongs to the tenth of the articles on which models are judged."""
    return record["source"] == "civic" and hashlib.sha256(str(record["pmid"]).encode()).digest()[0] % 10 == 0


def records(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines, gzipped or not."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def _titles(data: Path) -> frozenset[str]:
    titles = {_normalized(record["title"]) for name in JUDGED_ON for record in records(data / name)}
    return frozenset(titles - {""})


def _normalized(title: str | None) -> str:
    return re.sub(r"\W+", " ", (title or "").casefold()).strip()


def _abstract(title: str, text: str) -> Abstract:
    return Abstract(title=title[:MAX_TITLE_CHARACTERS] or None, abstract=text)


def _chunks(text: str) -> Iterator[str]:
    """Split a text between sentences into chunks of about the length of an abstract; a short rest is dropped."""
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
