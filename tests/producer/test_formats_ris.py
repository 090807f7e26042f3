"""RIS is read from a reference manager and written back: the answer is added, and nothing else is changed."""

import io
import json
import os
import subprocess
from pathlib import Path

import pytest
import rispy
from abstream.producer.formats import Broken, Record, read_from, writer_of
from abstream.schemas import Question

REFERENCES = (Path(__file__).parent / "fixtures/references.ris").read_bytes()
ARTICLES = Path(__file__).parent / "fixtures/pubmed-xml/articles.xml"
QUESTIONS = (
    Question(name="cancer", text="Is it?", labels=("Cancer", "Non-Cancer")),
    Question(name="cancer_type", text="Which?", labels=("breast", "lung")),
)
# A Python with ASReview, to check the files with its own reader. It has too many requirements to be one of ours.
ASREVIEW_PYTHON = os.environ.get("ABSTREAM_TEST_ASREVIEW_PYTHON")


def answer(cancer: str, cancer_type: str | None = None, *, review: bool = False) -> dict:
    answers = {"cancer": {"label": cancer, "confidence": 0.9}}
    if cancer_type:
        answers["cancer_type"] = {"label": cancer_type, "confidence": 0.75}
    return {"answers": answers, "review": {"required": review, "reason": None}}


ANSWERS = [answer("Cancer", "lung"), answer("Non-Cancer", review=True), answer("Cancer")]


def found_in(content: bytes, name: str = "x.ris") -> list[Record | Broken]:
    return list(read_from(io.BytesIO(content), name))


def labelled(records: list[Record], answers: list[dict] = ANSWERS, name: str = "x.ris") -> bytes:
    out = io.BytesIO()
    writer = writer_of(name)(out, QUESTIONS)
    for record, one in zip(records, answers, strict=True):
        writer.write(record, one)
    writer.finish()
    return out.getvalue()


def test_references_are_read_as_rispy_reads_them():
    """Continued lines, both tags for title and for abstract, a number between two references, an unknown tag."""
    theirs = rispy.loads(REFERENCES.decode())
    ours = [record.abstract for record in found_in(REFERENCES)]
    assert [one.title for one in ours] == [one.get("title") or one["primary_title"] for one in theirs]
    assert [one.abstract for one in ours] == ["We followed patients for years.", "Text of the chapter.", ""]
    assert (ours[0].identifiers.doi, ours[0].year) == ("10.9999/ris", 2018)


def test_what_stands_before_a_reference_is_none_and_is_kept():
    head = b"Provider: nobody\r\nTYPE: export\r\nER  - \r\n\r\n"
    [first, *_] = found_in(head + REFERENCES)
    assert first.abstract.title == "Tamoxifen after surgery"
    assert labelled(found_in(head + REFERENCES)).startswith(head + b"TY  - JOUR\r\nKW  - abstream: Cancer\r\n")


def test_but_for_the_answer_every_byte_is_as_it_was():
    lines = labelled(found_in(REFERENCES)).splitlines(keepends=True)
    added = [b"KW  - abstream: ", b"N1  - abstream: ", b"N1  - ASReview_relevant", b"N1  - ASReview_irrelevant\r\n"]
    kept = [line for line in lines if not line.startswith(tuple(added))]
    assert b"".join(kept) == REFERENCES.replace(b"N1  - ASReview_irrelevant\r\n", b"")


def test_the_label_is_where_asreview_looks_and_the_tags_where_zotero_does():
    first, second, third = rispy.loads(labelled(found_in(REFERENCES)).decode())
    assert first["notes"] == [
        "abstream: cancer Cancer (0.900); cancer_type lung (0.750)",
        "ASReview_relevant",
        "a note of mine",
    ]
    assert first["keywords"] == ["abstream: Cancer", "abstream: lung", "Humans"]
    assert second["notes"][1:] == ["ASReview_irrelevant", "ASReview_not_seen"], "since ASReview takes the first"
    assert second["keywords"] == ["abstream: Non-Cancer", "abstream: review"]
    assert third["notes"] == ["abstream: cancer Cancer (0.900)", "ASReview_irrelevant"], "what was judged stands"


def test_what_was_labelled_is_labelled_anew_and_not_twice():
    once = labelled(found_in(REFERENCES))
    other = [answer("Non-Cancer"), answer("Cancer", "breast"), answer("Cancer")]
    again = rispy.loads(labelled(found_in(once), other).decode())
    assert again[0]["keywords"] == ["abstream: Non-Cancer", "Humans"]
    assert [note for note in again[0]["notes"] if note.startswith("abstream")] == [
        "abstream: cancer Non-Cancer (0.900)"
    ]
    assert labelled(found_in(once)) == once


def test_a_library_in_windows_1252_becomes_utf_8():
    """ASReview tries UTF-8 first, and two libraries may be written to one file."""
    [record] = found_in("TY  - JOUR\nTI  - Naïve “cells”\nER  - ".encode("cp1252"))
    text = labelled([record], ANSWERS[:1]).decode()
    assert "TI  - Naïve “cells”\n" in text
    assert text.endswith("ER  - \n")


def test_pubmed_records_become_references():
    with ARTICLES.open("rb") as file:
        records = list(read_from(file, "x.xml"))
    first, second, _ = rispy.loads(labelled(records).decode())
    assert first["title"] == records[0].abstract.title
    assert first["abstract"] == records[0].abstract.abstract
    assert (first["doi"], first["year"], first["accession_number"]) == ("10.9999/right", "2019", "30000001")
    assert first["keywords"][-2:] == ["Humans", "Breast Neoplasms"]
    assert second["title"] == "Über erfundene Geschwülste."


def test_a_broken_reference_is_named_and_the_rest_goes_on():
    content = (
        b"TY  - JOUR\nTI  - A\nER  - \nTY  - JOUR\nTI  - no end\nTY  - JOUR\nTI  - C\nER  - \n"
        b"TY  - JOUR\nAU  - Nobody\nER  - \nTY  - JOUR\nTI  - \xc3\xa4\nER  - \nTY  - JOUR\nTI  - \xff\nER  - \n"
        b"TY  - JOUR\nTI  - cut of"
    )
    assert [str(one) if isinstance(one, Broken) else one.abstract.title for one in found_in(content)] == [
        "A",
        "line 4: has no line 'ER  - ' at its end: is the file cut off?",
        "C",
        "line 9: has neither title nor abstract: fill a field 'title', 'abstract' or 'text'",
        "ä",
        "line 15: is not UTF-8 at byte 17: save the file as UTF-8",
        "line 18: has no line 'ER  - ' at its end: is the file cut off?",
    ]
    assert str(found_in(b"no RIS\n")[0]) == "line 1: is not RIS: a reference begins with a line 'TY  - '"


@pytest.mark.skipif(not ASREVIEW_PYTHON, reason="ABSTREAM_TEST_ASREVIEW_PYTHON names no Python with ASReview")
@pytest.mark.parametrize("name", ["labelled.ris", "labelled.csv", "labelled.tsv"])
def test_asreview_reads_the_labels(tmp_path, name):
    # ASReview accepts only one tag for titles and one for abstracts in a file.
    references = REFERENCES.replace(b"T1  -", b"TI  -").replace(b"N2  -", b"AB  -")
    (tmp_path / name).write_bytes(labelled(found_in(references), name=name))
    code = (
        "import json, sys; from asreview.data.loader import load_records; "
        "print(json.dumps([[r.title, r.abstract, r.included] for r in load_records(sys.argv[1])]))"
    )
    done = subprocess.run([ASREVIEW_PYTHON, "-c", code, tmp_path / name], capture_output=True, check=True)
    assert json.loads(done.stdout) == [
        ["Tamoxifen after surgery", "We followed patients for years.", 1],
        ["Naïve cells", "Text of the chapter.", 0],
        ["Judged already", None, 0],
    ]
