"""Files in and out, in several formats and through standard input; broken records are named and counted."""

import gzip
import json
from pathlib import Path

import pytest
import rispy
from abstream.consumer.engine.fake import FakeEngine
from abstream.ops.files import classify_files

FIXTURES = Path(__file__).parents[1] / "producer/fixtures"
FAKE = ("--engine", "fake")


def test_files_of_different_formats_are_classified_into_one(abstream, tmp_path):
    (tmp_path / "more.xml.gz").write_bytes(gzip.compress((FIXTURES / "pubmed-xml/articles.xml").read_bytes()))
    (tmp_path / "broken.csv").write_bytes(b"id,title\na,Title\nb,Title,c\n")

    done = abstream(
        "classify",
        FIXTURES / "references.ris",
        "more.xml.gz",
        "broken.csv",
        FIXTURES / "pubmed.nbib",
        "-o",
        "out.ris",
        *FAKE,
    )

    assert done.returncode == 3
    assert done.stderr.splitlines() == [
        b"broken.csv: line 3: has 3 fields, and the header 2",
        b"10 classified, 1 broken, left out",
    ]
    references = rispy.loads((tmp_path / "out.ris").read_text(encoding="utf-8"))
    assert len(references) == 10
    assert all(any("ASReview_" in note for note in reference["notes"]) for reference in references)


def test_standard_input_is_read_in_the_given_format(abstream):
    done = abstream(
        "classify", "-", "--format", "nbib", "-o", "-", *FAKE, stdin=(FIXTURES / "pubmed.nbib").read_bytes()
    )
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == ["30000001", "30000002", "30000003"]


@pytest.mark.parametrize("command", [["publish", "data.docx"], ["classify", "data.docx", "-o", "-", *FAKE]])
def test_a_file_of_unknown_format_is_an_error_that_says_what_to_do(abstream, tmp_path, command):
    (tmp_path / "data.docx").write_bytes(b"some words\n")
    done = abstream(*command)
    assert done.returncode == 1
    assert done.stderr.startswith(
        b"abstream: data.docx: the format is clear neither from name nor content; give --format"
    )


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("out.xml", b"out.xml: no format can be written for this name"),
        ("out.csv.gz", b"out.csv.gz: no format can be written for this name"),
        ("nowhere/out.csv", b"cannot write nowhere/out.csv: No such file or directory"),
        ("./data.csv", b"./data.csv is also an input, and its broken records would be lost: give --out another name"),
    ],
)
def test_an_output_that_cannot_be_written_is_reported_before_a_model_is_loaded(abstream, tmp_path, out, said):
    (tmp_path / "data.csv").write_text("title\nTitle\n")
    done = abstream("classify", "data.csv", "-o", out, "--model", "none")
    assert done.returncode == 1
    assert done.stderr.startswith(b"abstream: ")
    assert said in done.stderr
    assert (tmp_path / "data.csv").read_text() == "title\nTitle\n"


@pytest.mark.parametrize("command", [["publish"], ["classify", "-o", "out.csv", "--model", "none"]])
@pytest.mark.parametrize(
    ("second", "said"), [("missing.csv", b"cannot read missing.csv"), ("notes.txt", b"notes.txt: the format is clear")]
)
def test_a_file_that_cannot_be_read_is_reported_before_the_work_on_those_before_it(
    abstream, tmp_path, command, second, said
):
    (tmp_path / "data.csv").write_text("title\nTitle\n")
    (tmp_path / "notes.txt").write_text("some words\n")
    done = abstream(*command, "data.csv", second)
    assert (done.returncode, done.stdout) == (1, b"")
    assert said in done.stderr


def test_an_interrupted_classify_leaves_the_earlier_output_and_no_rest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("title\nTitle\n")
    Path("out.csv").write_text("as before")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        classify_files(interrupted, ["data.csv"], "auto", "out.csv", 64)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "out.csv"]
    assert Path("out.csv").read_text() == "as before"


def test_where_no_record_is_usable_an_earlier_output_is_kept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data.csv").write_text("name,size\na,1\n")
    Path("out.csv").write_text("as before")

    assert classify_files(FakeEngine, ["data.csv"], "auto", "out.csv", 64).exit_code == 1

    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.csv", "out.csv"]
    assert Path("out.csv").read_text() == "as before"


def test_pubmed_records_are_published_under_their_pmids(abstream):
    done = abstream("publish", FIXTURES / "pubmed-xml/articles.xml", FIXTURES / "pubmed-xml/book.xml")
    ids = [json.loads(line)["id"] for line in done.stdout.splitlines()]
    assert ids == [f"3000000{number}" for number in range(1, 6)]
