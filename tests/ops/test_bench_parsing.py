"""The benchmark of parsing: both parsers read the same repeated records."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from abstream.ops.bench.parsing import OTHER, articles_of, differing, ours, write_repeated

FIXTURES = Path(__file__).parents[1] / "producer/fixtures/pubmed-xml"


def test_the_large_file_repeats_the_records(tmp_path):
    raw = articles_of(FIXTURES)
    write_repeated(raw, 2 * len(raw) + 1, tmp_path / "x.xml.gz")
    read = [fields["pmid"] for fields in ours(str(tmp_path / "x.xml.gz"))]
    assert read == [*read[: len(raw)], *read[: len(raw)], read[0]]


@pytest.mark.skipif(not find_spec(OTHER), reason="pubmed_parser is not installed")
def test_where_fields_differ_pubmed_parser_has_lost_something(tmp_path):
    """Nested markup, formulas, a DOI that is not the last location, and placeholders for missing values."""
    assert {(one["pmid"], one["field"]) for one in differing(articles_of(FIXTURES), tmp_path)} == {
        *{("30000001", "abstract"), ("30000001", "doi")},
        *{("30000002", "title"), ("30000002", "journal"), ("30000002", "vernacular_title")},
        *{("30000003", "abstract"), ("30000003", "year")},
    }


def test_it_prints_a_table_and_then_one_json_line(abstream):
    done = abstream("bench", "parsing", "--data", FIXTURES, "--records", "30", "--rounds", "1")
    *_, line = done.stdout.decode().splitlines()
    found = json.loads(line)
    assert done.returncode == 0, done.stderr.decode()
    assert found["readers"]["abstream"]["large"]["records"] == 30
