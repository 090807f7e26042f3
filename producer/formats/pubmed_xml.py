"""PubMed XML: replies of efetch, and the baseline and update files of NLM.

The file is split into records before any XML is parsed, and each record is parsed by itself. So only one record is in
memory, a broken one does not affect the others, and no document type is ever read: there are no entities except those
of XML itself, and nothing is fetched. Deleted records (``DeleteCitation``) are skipped.
"""

from collections.abc import Iterator
from io import BufferedReader
from xml.etree.ElementTree import Element, ParseError, XMLParser

from .pubmed import abstract_values
from .records import Broken, Record, from_values
from .xml_records import RawRecord, raw_records
from .xml_text import flat

# Prefixes may be declared outside of the record.
_OPEN = b'<record xmlns:mml="http://www.w3.org/1998/Math/MathML" xmlns:xlink="http://www.w3.org/1999/xlink">'
_CLOSE = b"</record>"
_NO_LABEL = ("UNLABELLED", "UNASSIGNED")


def read(file: BufferedReader) -> Iterator[Record | Broken]:
    """Yield a record or a ``Broken`` for every article and book article."""
    for raw in raw_records(file):
        yield _record(raw) if isinstance(raw, RawRecord) else raw


def _record(raw: RawRecord) -> Record | Broken:
    try:
        return _article(_parsed(raw), raw.position)
    except ParseError as error:
        reason = str(error).partition(": line")[0]
        return Broken(raw.position, f"is not XML at line {raw.line + error.position[0] - 1}: {reason}")
    except (LookupError, ValueError) as error:
        return Broken(raw.position, f"cannot be read as {raw.encoding}: {error}")
    except RecursionError:
        return Broken(raw.position, "is nested too deeply")


def _parsed(raw: RawRecord) -> Element:
    parser = XMLParser(encoding=raw.encoding)
    parser.feed(_OPEN)
    parser.feed(raw.body)
    parser.feed(_CLOSE)
    root: Element = parser.close()
    return root[0]


def _article(record: Element, position: str) -> Record | Broken:
    if record.tag == "PubmedBookArticle":
        return _of_book(record, position)
    citation = _child(record, "MedlineCitation")
    article = _child(citation, "Article")
    journal = _child(article, "Journal")
    ids = _ids(_child(_child(record, "PubmedData"), "ArticleIdList"))
    identifiers = {
        "pmid": _text(citation, "PMID") or ids.get("pubmed"),
        "pmcid": ids.get("pmc"),
        "doi": _doi(article) or ids.get("doi"),
    }
    values = abstract_values(
        title=_text(article, "ArticleTitle"),
        vernacular_title=_text(article, "VernacularTitle"),
        abstract=_abstract(_child(article, "Abstract")),
        other_abstracts=_other_abstracts(citation),
        identifiers=identifiers,
        journal=_text(journal, "Title") or _text(journal, "ISOAbbreviation"),
        date=_date(_child(_child(journal, "JournalIssue"), "PubDate")) or _date(_child(article, "ArticleDate")),
        languages=_texts(article.iterfind("Language")),
        publication_types=_texts(_child(article, "PublicationTypeList")),
        mesh=_texts(citation.iterfind("MeshHeadingList/MeshHeading/DescriptorName")),
    )
    return from_values(values, position, identifiers["pmid"] or identifiers["doi"])


def _of_book(record: Element, position: str) -> Record | Broken:
    """A book, or a chapter with a title of its own."""
    document = _child(record, "BookDocument")
    book = _child(document, "Book")
    ids = _ids(_child(document, "ArticleIdList")) | _ids(_child(_child(record, "PubmedBookData"), "ArticleIdList"))
    identifiers = {"pmid": _text(document, "PMID"), "pmcid": ids.get("pmc"), "doi": _doi(book) or ids.get("doi")}
    values = abstract_values(
        title=_text(document, "ArticleTitle") or _text(book, "BookTitle"),
        vernacular_title=_text(document, "VernacularTitle"),
        abstract=_abstract(_child(document, "Abstract")),
        other_abstracts=(),
        identifiers=identifiers,
        journal=None,
        date=_date(_child(book, "PubDate")),
        languages=_texts(document.iterfind("Language")),
        publication_types=_texts(document.iterfind("PublicationType")),
        mesh=(),
    )
    return from_values(values, position, identifiers["pmid"] or identifiers["doi"])


_ABSENT = Element("absent")


def _child(parent: Element, tag: str) -> Element:
    """The first child with this tag, or an empty element."""
    found = parent.find(tag)
    return _ABSENT if found is None else found


def _text(parent: Element, tag: str) -> str | None:
    return flat(_child(parent, tag)) or None


def _texts(elements: Iterator[Element] | Element) -> list[str]:
    return [text for element in elements if (text := flat(element))]


def _ids(listed: Element) -> dict[str, str]:
    return {one.get("IdType", ""): text for one in listed if (text := flat(one))}


def _doi(parent: Element) -> str | None:
    marked = (one for one in parent.iterfind("ELocationID") if one.get("EIdType") == "doi")
    return next((flat(one) for one in marked if one.get("ValidYN") != "N"), None)


def _date(date: Element) -> str | None:
    return _text(date, "Year") or _text(date, "MedlineDate")


def _abstract(abstract: Element) -> str:
    """All sections as one text, with their labels, as PubMed shows it."""
    sections = []
    for section in abstract.iterfind("AbstractText"):
        label, text = section.get("Label"), flat(section)
        if text:
            sections.append(f"{label}: {text}" if label and label not in _NO_LABEL else text)
    return " ".join(sections)


def _other_abstracts(citation: Element) -> list[str]:
    """The further abstracts of a citation, English ones first."""
    others = sorted(citation.iterfind("OtherAbstract"), key=lambda other: other.get("Language") != "eng")
    return [_abstract(other) for other in others]
