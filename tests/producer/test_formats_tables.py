"""JSON lines, CSV, TSV and workbooks: a broken row is reported with its position, and the rest is read."""

import io
import json
import zipfile

import pytest
from abstream.producer.formats import Broken, Record, read, read_from, writer_of
from abstream.producer.formats.csv import _MAX_ROW_CHARACTERS
from abstream.producer.formats.records import MAX_RECORD_BYTES
from abstream.schemas import Question
from openpyxl import Workbook

QUESTIONS = (
    Question(name="cancer", text="Is it?", labels=("Cancer", "Non-Cancer")),
    Question(name="cancer_type", text="Which?", labels=("breast", "lung")),
)
PREDICTION = {
    "answers": {"cancer": {"label": "Cancer", "confidence": 0.9, "probabilities": {"Cancer": 0.9, "Non-Cancer": 0.1}}},
    "review": {"required": False, "reason": None},
    "model": {"base": "phi3-nano"},
}


def records(content: bytes, name: str) -> list[Record | Broken]:
    return list(read_from(io.BytesIO(content), name))


def told(found: list[Record | Broken]) -> list[str]:
    """The ids of records, and the messages of broken ones."""
    return [str(one) if isinstance(one, Broken) else one.id for one in found]


def written(records: list[Record], name: str) -> str:
    out = io.BytesIO()
    writer = writer_of(name)(out, QUESTIONS)
    for record in records:
        writer.write(record, PREDICTION)
    writer.finish()
    return out.getvalue().decode()


def row_of(text: str, delimiter: str = ",") -> dict[str, str]:
    header, row = text.splitlines()
    return dict(zip(header.split(delimiter), row.split(delimiter), strict=True))


# JSON lines


def test_json_lines_with_the_field_names_in_use():
    lines = [
        {"id": "a", "title": "Title", "text": "Text.", "label": "Cancer"},
        {"pmid": 38048813, "Title": "Title", "Abstract": "Text.", "year": 2024},
        {"primary_title": "Title", "notes_abstract": "Text.", "doi": "10.1/x", "record_id": 0},
        {"title": "Neither id nor text"},
    ]
    first, second, third, last = records("\n".join(map(json.dumps, lines)).encode(), "x.jsonl")
    assert (first.id, first.abstract.title, first.abstract.abstract) == ("a", "Title", "Text.")
    assert first.fields["label"] == "Cancer"
    assert (second.id, second.abstract.identifiers.pmid, second.abstract.year) == ("38048813", "38048813", 2024)
    assert (third.id, third.abstract.title, third.abstract.abstract) == ("10.1/x", "Title", "Text.")
    assert last.abstract.abstract == ""


@pytest.mark.parametrize(
    ("written", "year"),
    [("2018/04//", 2018), (1998, 1998), ("1998 Dec-1999 Jan", 1998), ("in press", None), (20181, None)],
)
def test_a_year_is_found_in_a_date_and_one_that_is_none_breaks_nothing(written, year):
    [record] = records(json.dumps({"text": "Text.", "year": written}).encode(), "x.jsonl")
    assert record.abstract.year == year


def test_a_nul_is_written_to_a_table_as_a_replacement_character():
    [record] = records(b'{"id": "1", "text": "a\\u0000b", "c\\u0000": "d"}', "x.jsonl")
    table = row_of(written([record], "x.csv"))
    assert (table["text"], table["c\ufffd"]) == ("a\ufffdb", "d")


def test_an_abstract_of_the_contract_is_read_whole():
    line = {
        "abstract": "Text.",
        "identifiers": {"pmid": "7", "doi": "10.1/x"},
        "publication_types": ["Review"],
        "mesh": ["Humans"],
        "metadata": {"batch": "3"},
    }
    [record] = records(json.dumps(line).encode(), "x.jsonl")
    assert record.abstract.identifiers.pmid == "7"
    assert (record.abstract.publication_types, record.abstract.mesh) == (("Review",), ("Humans",))
    assert record.abstract.metadata == {"batch": "3"}


def test_a_list_that_is_given_as_text_stays_a_field_and_is_no_list_of_letters():
    """As a CSV export gives it."""
    [record] = records(b'{"text": "Text.", "mesh": "Humans; Mice"}', "x.jsonl")
    assert record.abstract.mesh == ()
    assert record.fields["mesh"] == "Humans; Mice"


def test_a_record_without_an_id_has_the_id_of_its_text_wherever_it_stands():
    """With row numbers as ids, row 3 of two files would be one abstract."""
    line, other = b'{"text": "Text."}\n', b'{"text": "Other."}\n'
    [alone], [_, second] = records(line, "x.jsonl"), records(other + line, "y.jsonl")
    assert alone.id == second.id
    assert alone.id.startswith("text-")
    assert records(other, "x.jsonl")[0].id != alone.id


BROKEN_LINES = {
    b'{"id": ': "line 2: is not JSON",
    b"\xff\xfe": "line 2: is not UTF-8 at byte 0",
    b"[1]": "line 2: is not a JSON object: write one object on each line",
    b'{"id": "b"}': "line 2: has neither title nor abstract",
    b'{"title": "", "text": " "}': "line 2: has neither title nor abstract",
    b'{"text": 7}': "line 2: abstract: must be a string",
    b'{"text": "' + b"a" * 50_001 + b'"}': "line 2: abstract: must have at most 50000 characters",
    b"[" * 100_000: "line 2: is not JSON",
    b'{"text": "b", "year": ' + b"9" * 5_000 + b"}": "line 2: is not JSON that can be read",
    b'{"text": "b", "id": "\\ud800"}': "line 2: is not Unicode",
    b'{"text": "b", "mesh": ["\\udfff"]}': "line 2: is not Unicode",
    b'{"text": "b", "id": ["c"]}': "line 2: the id is a list: give text or a number",
    b" " * (MAX_RECORD_BYTES + 10): f"line 2: is longer than {MAX_RECORD_BYTES} bytes",
}


@pytest.mark.parametrize(("line", "said"), BROKEN_LINES.items(), ids=BROKEN_LINES.values())
def test_a_broken_line_is_named_and_the_rest_goes_on(line, said):
    first, broken, last = records(b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n', "x.jsonl")
    assert str(broken).startswith(said)
    assert [first.abstract.abstract, last.abstract.abstract] == ["a", "b"]


# CSV and TSV


def test_csv_with_quotes_newlines_and_a_byte_order_mark():
    content = '\ufeffPMID,Title,Abstract\r\n1,"A, quoted ""title""","Two\nlines"\r\n2,Plain,Text\r\n'.encode()
    first, second = records(content, "x.csv")
    assert (first.id, first.abstract.title, first.abstract.abstract) == ("1", 'A, quoted "title"', "Two\nlines")
    assert second.id == "2"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_what_parts_the_columns_is_seen_in_the_header(delimiter):
    content = delimiter.join(["id", "abstract", "keywords"]) + "\n" + delimiter.join(["a", "Text.", "x"])
    [record] = records(content.encode(), "x.csv")
    assert (record.abstract.abstract, record.fields["keywords"]) == ("Text.", "x")


def test_a_header_full_of_commas_may_still_be_parted_by_semicolons():
    [record] = records(b"id;abstract;note, of a, kind, with, commas\na;Text.;", "x.csv")
    assert record.abstract.abstract == "Text."


@pytest.mark.parametrize("name", ["x.csv", "-"])
def test_lines_may_end_with_a_carriage_return_alone(name):
    """As on old Macs; an unclosed quote or a broken row costs no more than with other line ends."""
    rows = ["id,title,abstract", "1,a,\u201cb\u201d", '2,"of two\rlines",b', "3,a,b,c", '4,"stray,b', "5,a,b"]
    found = records("\r".join(rows).encode("cp1252"), name)
    assert told(found) == ["1", "2", "line 5: has 4 fields, and the header 3",
                           "line 6: is not CSV: a quote is not closed", "5"]  # fmt: skip
    assert (found[0].abstract.abstract, found[1].abstract.title) == ("\u201cb\u201d", "of two\nlines")


def test_a_carriage_return_within_a_row_is_kept_where_lines_end_otherwise():
    [record] = records(b'id,title,abstract\r\n1,"a\rb","c\r\nd"\r\n', "x.csv")
    assert (record.abstract.title, record.abstract.abstract) == ("a\rb", "c\r\nd")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_text_is_read_in_the_encodings_that_excel_writes(encoding):
    [record] = records("id\tabstract\na\tnaïve – “β”".replace("β", "ß").encode(encoding), "x.tsv")
    assert record.abstract.abstract == "naïve – “ß”"


def test_the_first_row_that_is_not_ascii_decides_on_the_encoding():
    """A row in another encoding is broken, not misread."""
    rows = b"id,title\n1,plain\n2,na\xc3\xafve\n3,na\xefve\n4,plain\n"
    assert told(records(rows, "x.csv")) == ["1", "2", "line 4: is neither UTF-8 nor, as the text before it, "
                                            "Windows-1252: save the file as UTF-8", "4"]  # fmt: skip


def test_a_broken_csv_row_is_named_and_the_rest_goes_on():
    assert told(records(b"id,title,abstract\n1,a,b\n2,a,b,c\n4,,\n\n5,e,f\n6,g\n", "x.csv")) == [
        "1",
        "line 3: has 4 fields, and the header 3",
        "line 4: has neither title nor abstract: fill a field 'title', 'abstract' or 'text'",
        "5",
        "6",
    ]


@pytest.mark.parametrize("size", [100, 2 * _MAX_ROW_CHARACTERS], ids=["to the end of the file", "for too long"])
def test_a_stray_quote_costs_its_own_row_only(size):
    sound = [f"{number},a,{'b' * 1000}" for number in range(3, 3 + size // 1000 + 1)]
    found = told(records("\n".join(["id,title,abstract", "1,a,b", '2,"stray,b', *sound]).encode(), "x.csv"))
    assert (found[0], found[2:]) == ("1", [row.partition(",")[0] for row in sound])
    assert found[1].startswith("line 3: is not CSV: ")
    assert found[1].endswith("a quote is not closed")


def test_after_a_stray_quote_the_lines_are_still_counted():
    rows = b'id,title,abstract\n1,a,b\n2,"stray,b\n3,a,b\n4,too,many,fields\n'
    found = told(records(rows, "x.csv"))
    assert [one.partition(":")[0] for one in found] == ["1", "line 3", "3", "line 5"]


def test_a_table_without_abstracts_is_refused_once():
    assert told(records(b"name,size\na,1\nb,2\n", "x.csv")) == [
        "line 1: the header has no column 'title', 'abstract' or 'text', but name, size: rename its columns so"
    ]


def test_of_several_sheets_the_first_is_read_and_named():
    book = Workbook()
    book.active.title = "About"
    book.active.append(["My review"])
    book.create_sheet("Data").append(["title"])
    out = io.BytesIO()
    book.save(out)
    assert told(records(out.getvalue(), "x.xlsx"))[0].startswith("row 1 of sheet 'About', the first: the header has no")


def test_only_the_columns_that_have_a_name_are_listed():
    [broken] = told(records(workbook(["Notes", None, "by whom"]), "x.xlsx"))
    assert "but Notes, by whom: rename" in broken


# Workbooks


def workbook(*rows: list[object]) -> bytes:
    book = Workbook()
    for row in rows:
        book.active.append(row)
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def test_a_workbook_is_read_as_a_table_is():
    content = workbook(
        ["PMID", "Title", "Abstract"], [38048813, "Title", "Text."], [2.0, None, None], ["3", 7, "Text."]
    )
    first, broken, last = records(content, "x.xlsx")
    assert (first.id, first.abstract.title, first.abstract.abstract) == ("38048813", "Title", "Text.")
    assert str(broken).startswith("row 3: has neither title nor abstract")
    assert last.abstract.title == "7"


def test_a_workbook_that_would_unpack_to_gigabytes_is_refused():
    out = io.BytesIO(workbook(["title"], ["Title"]))
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb", b"")
        archive.infolist()[-1].file_size = 5 << 30  # as its directory will say
    assert "which is more than is read: save it as CSV" in told(records(out.getvalue(), "x.xlsx"))[0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no zip"])
def test_what_is_no_workbook_is_refused(content):
    [broken] = records(content, "x.xlsx")
    assert str(broken).startswith("the file: is no Excel workbook that can be read")


# What is written


def test_a_prediction_as_a_json_line():
    [record] = records(b'{"id": "a", "text": "Text."}', "x.jsonl")
    assert json.loads(written([record], "x.jsonl")) == {"id": "a", **PREDICTION}


def test_a_prediction_as_a_row_keeps_the_columns_it_came_with():
    [record] = records(b"id,title,mine\na,Title,kept\n", "x.csv")
    expected = {
        "id": "a",
        "title": "Title",
        "mine": "kept",
        "included": "1",
        "abstream_cancer": "Cancer",
        "abstream_cancer_confidence": "0.900000",
        "abstream_cancer_type": "",
        "abstream_cancer_type_confidence": "",
        "abstream_review": "false",
    }
    assert row_of(written([record], "x.csv")) == expected
    assert row_of(written([record], "x.tsv"), "\t") == expected


@pytest.mark.parametrize(("label", "then"), [("0", "0"), ("", "1")])
def test_a_label_that_a_person_gave_stands_and_a_missing_one_is_filled_in(label, then):
    [record] = records(f"id,title,label_included\na,Title,{label}\n".encode(), "x.csv")
    row = row_of(written([record], "x.csv"))
    assert row["label_included"] == then
    assert "included" not in row


def test_files_of_different_columns_lose_none_in_one_table(tmp_path):
    found = records(b"id,title,mine\na,Title,kept\n", "x.csv") + records(
        b'{"id": "b", "text": "T", "x": [1]}', "x.jsonl"
    )
    header, first, second = written(found, "x.csv").splitlines()
    assert header.startswith("id,title,mine,included,text,x,")
    assert first.startswith("a,Title,kept,1,,,")
    assert second.startswith("b,,,1,T,[1],")


def test_a_file_is_read_by_its_path(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"id,title\na,Title\n")
    assert told(list(read(str(tmp_path / "x.csv")))) == ["a"]
