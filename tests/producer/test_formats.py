"""Files in: a broken record is named by its place, and the rest goes on."""

import io
import json

import pytest
from abstream.producer.formats import WRITERS, Broken, Record, UnknownFormat, format_of, read
from abstream.producer.formats.jsonl import MAX_LINE_BYTES

PREDICTION = {
    "answers": {"cancer": {"label": "Cancer", "confidence": 0.9, "probabilities": {"Cancer": 0.9, "Non-Cancer": 0.1}}},
    "review": {"required": False, "reason": None},
    "model": {"base": "phi3-nano"},
}


def records(tmp_path, name: str, content: bytes) -> list[Record | Broken]:
    path = tmp_path / name
    path.write_bytes(content)
    return list(read(str(path)))


def test_json_lines_with_the_field_names_in_use(tmp_path):
    lines = [
        {"id": "a", "title": "Title", "text": "Text.", "label": "Cancer"},
        {"pmid": 38048813, "Title": "Title", "Abstract": "Text.", "year": 2024},
        {"title": "Neither id nor text"},
    ]
    first, second, third = records(tmp_path, "x.jsonl", "\n".join(map(json.dumps, lines)).encode())
    assert (first.id, first.abstract.title, first.abstract.abstract) == ("a", "Title", "Text.")
    assert first.fields["label"] == "Cancer"
    assert (second.id, second.abstract.identifiers.pmid, second.abstract.year) == ("38048813", "38048813", 2024)
    assert (third.id, third.abstract.abstract) == ("line 3", "")


BROKEN_LINES = {
    b'{"id": ': "line 2: is not JSON",
    b"\xff\xfe": "line 2: is not UTF-8 at byte 0",
    b"[1]": "line 2: is a JSON list, not an object",
    b'{"id": "b"}': "line 2: has no field 'abstract' or 'text'",
    b'{"title": "", "text": " "}': "line 2: title and abstract are both empty",
    b'{"text": 7}': "line 2: abstract: Input should be a valid string",
    b'{"text": "' + b"a" * 50_001 + b'"}': "line 2: abstract: String should have at most 50000 characters",
    b"[" * 100_000: "line 2: is not JSON",
    b" " * (MAX_LINE_BYTES + 10): f"line 2: is longer than {MAX_LINE_BYTES} bytes",
}


@pytest.mark.parametrize(("line", "said"), BROKEN_LINES.items(), ids=BROKEN_LINES.values())
def test_a_broken_line_is_named_and_the_rest_goes_on(tmp_path, line, said):
    first, broken, last = records(tmp_path, "x.jsonl", b'{"text": "a"}\n' + line + b'\n{"text": "b"}\n')
    assert str(broken).startswith(said)
    assert [first.abstract.abstract, last.abstract.abstract] == ["a", "b"]


def test_csv_with_quotes_newlines_and_a_byte_order_mark(tmp_path):
    content = '\ufeffPMID,Title,Abstract\r\n1,"A, quoted ""title""","Two\nlines"\r\n2,Plain,Text\r\n'.encode()
    first, second = records(tmp_path, "x.csv", content)
    assert (first.id, first.abstract.title, first.abstract.abstract) == ("1", 'A, quoted "title"', "Two\nlines")
    assert second.id == "2"


def test_a_broken_csv_row_is_named_and_the_rest_goes_on(tmp_path):
    content = b"id,title,abstract\n1,a,b\n2,a,b,c\n3,\xff,b\n4,,\n5,e,f\n"
    found = records(tmp_path, "x.csv", content)
    assert [str(one) if isinstance(one, Broken) else one.id for one in found] == [
        "1",
        "line 3: has more fields than the header",
        "line 4: is not UTF-8",
        "line 5: has no field 'abstract' or 'text' or 'abstract note' nor 'title'",
        "5",
    ]


def test_a_name_that_does_not_tell_its_format_says_which_do():
    with pytest.raises(UnknownFormat, match=r"\.jsonl, \.ndjson, \.csv"):
        format_of("x.docx")
    assert format_of("x.docx", "csv") == "csv"
    assert format_of("-") == "jsonl"


def test_a_prediction_as_a_json_line(tmp_path):
    [record] = records(tmp_path, "x.jsonl", b'{"id": "a", "text": "Text."}')
    out = io.BytesIO()
    WRITERS["jsonl"](out, ["cancer"]).write(record, PREDICTION)
    assert json.loads(out.getvalue()) == {"id": "a", **PREDICTION}


def test_a_prediction_as_a_csv_row_keeps_the_columns_it_came_with(tmp_path):
    [record] = records(tmp_path, "x.csv", b"id,title,mine\na,Title,kept\n")
    out = io.BytesIO()
    writer = WRITERS["csv"](out, ["cancer", "cancer_type"])
    writer.write(record, PREDICTION)
    header, row = out.getvalue().decode().splitlines()
    assert dict(zip(header.split(","), row.split(","), strict=True)) == {
        "id": "a",
        "title": "Title",
        "mine": "kept",
        "abstream_cancer": "Cancer",
        "abstream_cancer_confidence": "0.900000",
        "abstream_cancer_type": "",
        "abstream_cancer_type_confidence": "",
        "abstream_review": "false",
    }
