"""PubMed records in XML and in MEDLINE's tagged format: the same record gives the same abstract."""

import gzip
import io
import tracemalloc
from itertools import chain, repeat
from pathlib import Path

import pytest
from abstream.producer.formats import Broken, Record, read, read_from
from abstream.producer.formats import xml_records as cutting

FIXTURES = Path(__file__).parent / "fixtures"
ARTICLE = b"<PubmedArticle><MedlineCitation><PMID>%d</PMID><Article>%s</Article></MedlineCitation></PubmedArticle>"


def article(pmid: int, inside: bytes = b"<ArticleTitle>Title</ArticleTitle>") -> bytes:
    return ARTICLE % (pmid, inside)


def in_a_set(*records: bytes, head: bytes = b"") -> bytes:
    return head + b"<PubmedArticleSet>\n" + b"\n".join(records) + b"\n</PubmedArticleSet>\n"


def found_in(content: bytes, name: str = "x.xml") -> list[Record | Broken]:
    return list(read_from(io.BytesIO(content), name))


def told(found: list[Record | Broken]) -> list[str]:
    return [str(one) if isinstance(one, Broken) else one.id for one in found]


@pytest.fixture(scope="module")
def articles() -> list[Record]:
    return list(read(str(FIXTURES / "pubmed-xml/articles.xml")))


def test_markup_entities_and_formulas_become_readable_text(articles):
    assert articles[0].abstract.title == "Uptake of 18F in BRCA1-mutated tumours: H2O & pH < 7."
    assert articles[0].abstract.abstract == (
        "BACKGROUND: Naïve β-cells with nested markup. METHODS: We measured r=1/2 and 129Xe. No label here."
    )


def test_what_describes_the_article_is_kept(articles):
    abstract = articles[0].abstract
    assert abstract.identifiers.model_dump() == {"pmid": "30000001", "pmcid": "PMC9000001", "doi": "10.9999/right"}
    assert (abstract.journal, abstract.year, abstract.language) == ("Journal of Invented Oncology", 2019, "eng")
    assert abstract.publication_types == ("Journal Article", "Retracted Publication")
    assert abstract.mesh == ("Humans", "Breast Neoplasms")


def test_a_title_that_is_not_translated_is_the_vernacular_one(articles):
    untranslated, translated = articles[1].abstract, articles[2].abstract
    assert (untranslated.title, untranslated.metadata) == ("Über erfundene Geschwülste.", {})
    assert translated.title == "[Invented tumours]."
    assert translated.metadata == {"vernacular_title": "Tumores inventados."}


def test_a_date_in_words_and_a_date_that_is_only_of_the_web_have_a_year(articles):
    assert [one.abstract.year for one in articles] == [2019, 1998, 2021]


def test_where_there_is_no_abstract_another_counts_english_first(articles):
    assert articles[1].abstract.abstract == ""
    assert articles[2].abstract.abstract == "SUMMARY: In plain words."


def test_what_is_deleted_is_passed_over(articles):
    assert [one.id for one in articles] == ["30000001", "30000002", "30000003"]


def test_books_and_chapters():
    chapter, book = read(str(FIXTURES / "pubmed-xml/book.xml"))
    assert (chapter.abstract.title, chapter.abstract.abstract) == ("A chapter on TP53", "What the chapter says.")
    assert (chapter.id, chapter.abstract.identifiers.doi, chapter.abstract.year) == ("30000004", "10.9999/book", 2022)
    assert book.abstract.title == "Invented Reviews"


def test_tagged_lines_give_the_same_abstracts_as_xml(articles):
    assert list(read(str(FIXTURES / "pubmed.nbib"))) == articles


def test_tagged_lines_that_are_broken_are_named_and_the_rest_goes_on():
    content = (
        b"PMID- 1\nTI  - A\n\nPMID- 2\nTI  - B\nnonsense\n\nPMID- 3\n\nPMID- 4\nTI  - \xc3\xa4\nPMID- 5\nTI  - \xff\n"
    )
    assert told(found_in(content, "x.nbib")) == [
        "1",
        "line 4: its line 3 has neither a tag nor belongs to the line before it",
        "line 8: title and abstract are both empty: send at least one of them",
        "4",
        "line 12: is not UTF-8 at byte 14: save the file as UTF-8",
    ]


BROKEN = {
    b"<ArticleTitle>A & B</ArticleTitle>": "is not XML at line 3: not well-formed (invalid token)",
    b"<ArticleTitle>\n\nA</Title>": "is not XML at line 5: mismatched tag",
    b"<ArticleTitle>&nbsp;</ArticleTitle>": "is not XML at line 3: undefined entity",
    b"<ArticleTitle>\xff</ArticleTitle>": "is not XML at line 3: not well-formed (invalid token)",
    b"<ArticleTitle/>": "title and abstract are both empty: send at least one of them",
    b"<ArticleTitle>" + b"T" * 2_001 + b"</ArticleTitle>": "title: must have at most 2000 characters",
    b"</PubmedArticle>": "is not XML at line 3: mismatched tag",
    b"<PubmedArticle>": "has no </PubmedArticle> before the next record: that is read all the same",
    b"<x/>" * 600_000: f"is larger than {cutting.MAX_XML_BYTES} bytes or 500000 tags, which no record of PubMed is",
}


@pytest.mark.parametrize(("inside", "said"), BROKEN.items(), ids=BROKEN.values())
def test_a_broken_record_is_named_and_the_rest_goes_on(inside, said):
    first, broken, *_, last = found_in(in_a_set(article(1), article(2, inside), article(3)))
    assert (first.id, str(broken), last.id) == ("1", f"record 2, line 3: {said}", "3")


def test_elements_that_are_nested_without_end_are_not_followed():
    deep = b"<ArticleTitle>" + b"<i>" * 100_000 + b"x" + b"</i>" * 100_000 + b"</ArticleTitle>"
    formula = b"<mml:math>" + b"<mml:mi>" * 5_000 + b"</mml:mi>" * 5_000 + b"</mml:math>"
    first, second, third = found_in(
        in_a_set(article(1, deep), article(2, b"<ArticleTitle>" + formula + b"</ArticleTitle>"), article(3))
    )
    assert (first.abstract.title, str(second), third.id) == ("x", "record 2, line 3: is nested too deeply", "3")


def test_a_record_without_an_end_is_not_held_in_memory(monkeypatch):
    monkeypatch.setattr(cutting, "MAX_XML_BYTES", 1 << 20)
    endless = b"<PubmedArticle>" + b"<A>text</A>" * 300_000
    tracemalloc.start()
    broken, record = found_in(gzip.compress(in_a_set(endless, article(2))))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "before the next record" in str(broken) or "larger than" in str(broken)
    assert record.id == "2"
    assert peak < 16 << 20


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (in_a_set(article(1))[:-10], "after record 1: the file ends without </PubmedArticleSet>: download it again"),
        (in_a_set(article(1), article(2))[:-60], "record 2, line 3: the file is cut off in it: download it again"),
    ],
    ids=["between records", "within a record"],
)
def test_a_file_that_is_cut_off_is_told_from_one_that_is_whole(content, said):
    assert told(found_in(content)) == ["1", said]


def test_other_xml_is_none_of_pubmed():
    assert told(found_in(b"<html><body>Error</body></html>")) == [
        "the file: holds no PubmedArticle: it is not PubMed's XML"
    ]


def test_entities_are_never_expanded_and_nothing_is_fetched():
    """The "billion laughs" attack, and a file of this machine."""
    laughs = b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10) for n in range(1, 10))
    head = b'<!DOCTYPE x [<!ENTITY a0 "ha">' + laughs + b'<!ENTITY passwd SYSTEM "file:///etc/passwd">]>\n'
    titles = [b"<ArticleTitle>&%s;</ArticleTitle>" % name for name in (b"a9", b"passwd")]
    found = told(found_in(in_a_set(article(1), *(article(2, title) for title in titles), head=head)))
    assert found == [
        "1",
        "record 2, line 4: is not XML at line 4: undefined entity",
        "record 3, line 5: is not XML at line 5: undefined entity",
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "iso-8859-1", "utf-16"])
def test_other_encodings_are_read_as_they_are_declared(encoding):
    declared = f'<?xml version="1.0" encoding="{encoding.removesuffix("-sig")}"?>'
    text = declared + in_a_set(article(1, "<ArticleTitle>Naïve</ArticleTitle>".encode())).decode()
    [record] = found_in(text.encode(encoding))
    assert record.abstract.title == "Naïve"


def test_an_encoding_that_nobody_knows_breaks_its_records_only():
    [said] = told(found_in(in_a_set(article(1), head=b'<?xml version="1.0" encoding="klingon"?>\n')))
    assert said == "record 1, line 3: cannot be read as klingon: unknown encoding: klingon"


def test_a_large_file_takes_the_memory_of_one_record():
    class Large(io.RawIOBase):
        """A file with ``count`` times the same records."""

        def __init__(self, count: int) -> None:
            body = (FIXTURES / "pubmed-xml/articles.xml").read_bytes()
            head, tail = body.index(b"\n<PubmedArticle>"), body.index(b"<DeleteCitation>")
            self._parts = chain([body[:head]], repeat(body[head:tail], count), [body[tail:]])

        def read(self, size: int = -1) -> bytes:
            return next(self._parts, b"")

    def peak_of(count: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in read_from(Large(count), "x.xml")) == 3 * count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_of(200) < peak_of(20) + (1 << 20)
