"""In mutated files, every record is read or reported as broken, and nothing else happens."""

import gzip
import io
import zipfile
from pathlib import Path
from random import Random

import pytest
from abstream.producer.formats import Broken, Record, UnknownFormat, read_from, writer_of
from abstream.schemas import Question

from .test_formats import SAMPLES

FIXTURES = Path(__file__).parent / "fixtures"
MUTANTS = 40  # of each sample here; many thousand were tried by hand
QUESTIONS = (Question(name="cancer", text="Is it?", labels=("Cancer", "Non-Cancer")),)
PREDICTION = {"answers": {"cancer": {"label": "Cancer", "confidence": 1.0}}, "review": {"required": True}}
ODD = [
    *(b"", b"\0", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\x85", b"\xe2\x80\xa8", b"\r", b"\r\n"),
    *(b"\n\n", b'"', b'""', b",", b"\t", b";", b"=", b"'", b"\\", b"\\ud800", b"{", b"}", b"[" * 2_000, b"9" * 5_000),
    *(b"NaN", b"null", b"1e999", b"<", b"</", b"<!--", b"-->", b"]]>", b"<![CDATA[", b"&x;", b"&#0;", b"&#x10FFFF;"),
    *(b"<PubmedArticle>", b"</PubmedArticle>", b"</PubmedArticleSet>", b"<a" * 1_000, b"<i>" * 3_000, b"<x/>" * 1_000),
    *(b"TY  - ", b"ER  - ", b"\nER  - \n", b"\nTY  - JOUR\n", b"KW  - abstream: x\n", b"PMID- 1\n", b"      "),
    *(
        b"PK\x03\x04",
        b"\x1f\x8b\x08",
        b'<c r="XFD1048576"><v>1</v></c>',
        b'<c t="s"><v>99</v></c>',
        b'r="A0"',
        b"x" * 9_999,
    ),
]
FILES = {
    **SAMPLES,
    "jsonl": b'{"id": "a", "title": "T\\u00e4", "text": "Text", "year": 2018, "mesh": ["Humans"], "metadata": {}}\n'
    * 3,
    "csv": 'id,title,abstract\n1,"a ""b""","Two\nlines"\n2,naïve,c\n'.encode(),
    "ris": (FIXTURES / "references.ris").read_bytes(),
    "nbib": (FIXTURES / "pubmed.nbib").read_bytes(),
    "pubmed-xml": (FIXTURES / "pubmed-xml/articles.xml").read_bytes(),
}


def mutated(content: bytes, chance: Random) -> bytes:
    """One to five mutations: odd bytes inserted or written over, a part cut, doubled, moved or with bits flipped."""
    for _ in range(chance.randint(1, 5)):
        start, end = sorted((chance.randint(0, len(content)), chance.randint(0, len(content))))
        end = min(end, start + chance.choice([0, 1, 2, 10, 100, 10_000]))
        before, part, after = content[:start], content[start:end], content[end:]
        content = chance.choice(
            [
                lambda: before + chance.choice(ODD) + part + after,  # noqa: B023 - called at once
                lambda: before + chance.choice(ODD) + after,  # noqa: B023
                lambda: before + after,  # noqa: B023
                lambda: before + 2 * part + after,  # noqa: B023
                lambda: after + before + part,  # noqa: B023
                lambda: before + bytes(byte ^ 1 << chance.randrange(8) for byte in part) + after,  # noqa: B023
                lambda: before + part,  # noqa: B023
            ]
        )()
    return content


def repacked(workbook: bytes, chance: Random) -> bytes:
    """A workbook with one changed part, in a valid archive."""
    with zipfile.ZipFile(io.BytesIO(workbook)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    changed = chance.choice(sorted(parts))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, mutated(content, chance) if name == changed else content)
    return out.getvalue()


def mutant(name: str, seed: int) -> bytes:
    chance = Random(f"{name} {seed}")
    if name == "xlsx" and chance.random() < 0.7:
        return repacked(FILES[name], chance)
    content = mutated(FILES[name], chance)
    return mutated(gzip.compress(content), chance) if chance.random() < 0.1 else content


def check(content: bytes, name: str) -> None:
    """Read the bytes in their own format and in the one they look like; write what was read in every format."""
    for wanted in (name, "auto"):
        try:
            found = list(read_from(io.BytesIO(content), "file", wanted))
        except UnknownFormat:
            continue
        assert {type(one) for one in found} <= {Record, Broken}
        assert all(isinstance(one, Record) or (one.position and one.reason) for one in found)
        for ending in ("jsonl", "csv", "tsv", "ris"):
            writer = writer_of(f"out.{ending}")(io.BytesIO(), QUESTIONS)
            for record in found:
                if isinstance(record, Record):
                    writer.write(record, PREDICTION)
            writer.finish()


@pytest.mark.parametrize("name", FILES)
def test_whatever_happened_to_a_file_it_is_read_or_named_as_broken(name):
    for seed in range(MUTANTS):
        check(mutant(name, seed), name)
