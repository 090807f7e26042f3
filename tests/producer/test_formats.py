"""The format of a file is told by its name or its beginning, and no file can use up memory or time."""

import gzip
import io
import sys
from pathlib import Path

import pytest
from abstream.producer.formats import Broken, MissingLibrary, Record, UnknownFormat, read, read_from, writer_of
from abstream.producer.formats import opening as opening_module
from openpyxl import Workbook

FIXTURES = Path(__file__).parent / "fixtures"
DATA = Path(__file__).parents[3] / "shared/data/fixtures"


def from_bytes(content: bytes, name: str = "file", wanted: str = "auto") -> list[Record | Broken]:
    return list(read_from(io.BytesIO(content), name, wanted))


def workbook() -> bytes:
    book, out = Workbook(), io.BytesIO()
    book.active.append(["id", "title"])
    book.active.append(["a", "Title"])
    book.save(out)
    return out.getvalue()


SAMPLES = {
    "jsonl": b'\n{"id": "a", "title": "Title"}\n',
    "csv": b"id,title,year\na,Title,2018\n",
    "tsv": b"id\ttitle\nTitle\ta, b\n",
    "xlsx": workbook(),
    "ris": b"1.\nTY  - JOUR\nID  - a\nTI  - Title\nER  - \n",
    "nbib": b"\nPMID- 1\nTI  - Title\n",
    "pubmed-xml": (FIXTURES / "pubmed-xml/book.xml").read_bytes(),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_what_a_file_holds_is_seen_where_its_name_does_not_tell(name):
    found = from_bytes(SAMPLES[name], "download.txt")
    assert found == from_bytes(SAMPLES[name], wanted=name)
    assert all(isinstance(record, Record) for record in found)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_format_may_be_gzipped_and_may_come_in_small_pieces(name):
    class Pipe(io.BytesIO):
        def read1(self, size: int = -1) -> bytes:
            return super().read1(1)

    packed = gzip.compress(SAMPLES[name])
    assert list(read_from(Pipe(packed), "-", name)) == from_bytes(SAMPLES[name], wanted=name)


def test_a_name_is_believed_before_the_content():
    [broken] = from_bytes(SAMPLES["csv"], "x.xml")
    assert "it is not PubMed's XML" in str(broken)
    [record] = from_bytes(gzip.compress(SAMPLES["csv"]), "X.CSV.GZ")
    assert record.abstract.year == 2018


def test_what_nothing_tells_is_an_error_that_says_what_to_do():
    with pytest.raises(
        UnknownFormat, match=r"x.docx: .* neither from name nor content; .* --format, .*: \.jsonl, .*\.xml"
    ):
        from_bytes(b"some text\n", "x.docx")
    with pytest.raises(UnknownFormat, match=r"x.nbib: .* known endings: \.jsonl, \.ndjson, \.csv, \.tsv, \.tab, \.ris"):
        writer_of("x.nbib")


def test_a_json_list_is_an_error_that_says_how_to_make_lines_of_it():
    with pytest.raises(
        UnknownFormat, match=r"x.json: is a JSON list: write one object on each line, as `jq -c '.\[\]'`"
    ):
        from_bytes(b'[\n{"title": "Title"}]\n', "x.json")


def test_standard_input_is_json_lines_unless_it_shows_otherwise(monkeypatch):
    def piped(content: bytes) -> list[Record | Broken]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
        return list(read("-"))

    assert str(piped(b"no json\n")[0]).startswith("line 1: is not JSON")
    assert piped(SAMPLES["ris"])[0].id == "a"
    assert piped(b"") == []


@pytest.mark.parametrize(("library", "name"), [("rispy", "ris"), ("openpyxl", "xlsx")])
def test_a_missing_library_names_the_extra(monkeypatch, library, name):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingLibrary, match=rf"needs {library}.*pip install 'abstream\[formats\]'"):
        from_bytes(SAMPLES[name])


def test_a_file_that_is_cut_off_while_packed_gives_what_it_has_and_says_so():
    packed = gzip.compress(b"".join(b'{"title": "%d"}\n' % number for number in range(5_000)))
    *records, broken = from_bytes(packed[: len(packed) // 2])
    assert len(records) > 100
    assert str(broken).startswith(f"after record {len(records)}: cannot be unpacked further")
    assert str(broken).endswith("download it again")


def test_what_unpacks_to_a_thousand_times_its_size_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(opening_module, "_MAX_RATIO_FROM_BYTES", 1 << 20)
    *_, broken = from_bytes(gzip.compress(b" \n" * (4 << 20)), "x.jsonl.gz")
    assert "unpacks to more than 200 times its size" in str(broken)


def test_what_is_packed_twice_is_not_unpacked_twice():
    """There are gzip files that unpack to themselves."""
    with pytest.raises(UnknownFormat):
        from_bytes(gzip.compress(gzip.compress(SAMPLES["csv"])), "x")


@pytest.mark.skipif(not DATA.is_dir(), reason="the real files are not here")
def test_every_real_record_is_read():
    found = {path.name: list(read(str(path))) for path in [*DATA.glob("medline/*"), *DATA.glob("pubmed-xml/*.xml")]}
    assert [str(one) for records in found.values() for one in records if isinstance(one, Broken)] == []
    assert len(found) == 25
    assert sum(map(len, found.values())) == 87 + 20
    assert found["metapub-37909814.xml"] == []


@pytest.mark.parametrize("own", ["7", '"7"', '"a"'])
def test_an_id_is_written_as_it_was_read(own):
    [record] = from_bytes(f'{{"id": {own}, "text": "Text."}}'.encode(), "file.jsonl")
    out = io.BytesIO()
    writer_of("-")(out, ()).write(record, {"answers": {}})
    assert out.getvalue() == f'{{"id": {own}, "answers": {{}}}}\n'.encode()
