"""PubMed XML read by abstream and by pubmed_parser: how fast, in how much memory, and with which fields.

The large file is made by repeating the records of a folder of real ones. Each reader runs in a process of its own, in
turn, so that memory is its own; both do all they do: abstream validates every abstract, pubmed_parser reads authors,
grants and references too.
"""

import gzip
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ...producer.formats import Record, read
from ...producer.formats.opening import opened, plain
from ...producer.formats.xml_records import RawRecord, raw_records
from ...schemas import AbstreamError
from .machine import machine

OTHER = "pubmed_parser"
_HEAD = b'<?xml version="1.0" encoding="utf-8"?>\n<PubmedArticleSet>\n'
_TAIL = b"</PubmedArticleSet>\n"
_SHARE = 10  # the small file has so much less: where memory is constant, it takes as much as the large one

Fields = dict[str, str]


@dataclass(frozen=True)
class Reading:
    """One reading of one file: seconds of CPU, since both use one thread and other work may go on beside them.

    The memory is the highest of the process, its libraries included.
    """

    records: int
    seconds: float
    peak_bytes: int


def ours(path: str) -> Iterator[Fields]:
    """The fields of every abstract, by abstream."""
    for record in read(path):
        if not isinstance(record, Record):
            raise AbstreamError(f"{path}: {record}")
        abstract = record.abstract
        yield {
            "pmid": abstract.identifiers.pmid or "",
            "doi": abstract.identifiers.doi or "",
            "title": abstract.title or "",
            "abstract": abstract.abstract,
            "journal": abstract.journal or "",
            "year": str(abstract.year or ""),
            "language": abstract.language or "",
            "publication_types": "; ".join(abstract.publication_types),
            "mesh": "; ".join(abstract.mesh),
            "vernacular_title": abstract.metadata.get("vernacular_title", ""),
        }


def theirs(path: str) -> Iterator[Fields]:
    """The same fields, by pubmed_parser."""
    from pubmed_parser import parse_medline_xml

    for article in parse_medline_xml(path):
        fields = {name: article[name] for name in ("pmid", "doi", "title", "abstract", "journal", "vernacular_title")}
        fields |= {"year": article["pubdate"], "language": article["languages"]}
        fields |= {"publication_types": _names(article["publication_types"]), "mesh": _names(article["mesh_terms"])}
        yield fields


READERS: dict[str, Callable[[str], Iterator[Fields]]] = {"abstream": ours, OTHER: theirs}


def measure(folder: Path, records: int, rounds: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Read ``records`` records, and a tenth of them, by all that are installed.

    Args:
        folder: of PubMed XML files with real records.

    Raises:
        AbstreamError: there are no such files, or a reader failed.
    """
    raw = articles_of(folder)
    names = [name for name in READERS if name != OTHER or find_spec(OTHER)]
    readings: dict[str, dict[str, list[Reading]]] = {name: {"large": [], "small": []} for name in names}
    with TemporaryDirectory() as scratch:
        files = {"large": Path(scratch) / "large.xml.gz", "small": Path(scratch) / "small.xml.gz"}
        plain_bytes = write_repeated(raw, records, files["large"])
        write_repeated(raw, max(1, records // _SHARE), files["small"])
        for turn in range(rounds):
            for name in names:
                for size, path in files.items():
                    readings[name][size].append(_in_a_process(name, path))
                say(f"round {turn + 1}: {name} {readings[name]['large'][-1].seconds:.1f} s")
        differences = differing(raw, Path(scratch)) if OTHER in names else []
    return {
        "benchmark": "parsing",
        "records": records,
        "different_records": len(raw),
        "plain_bytes": plain_bytes,
        "readers": {name: {size: _median(some) for size, some in sizes.items()} for name, sizes in readings.items()},
        "times_as_fast": _ratio(readings) if OTHER in names else None,
        "differences": differences,
        "machine": machine(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in (OTHER, "lxml") if find_spec(name)},
    }


def table(found: dict[str, Any]) -> Iterator[str]:
    """The lines of the result for people."""
    yield f"| reader | CPU seconds | records/s | MB/s | peak memory, MB | with a {_SHARE}th of the records, MB |"
    yield "|---|---|---|---|---|---|"
    for name, sizes in found["readers"].items():
        large, small = sizes["large"], sizes["small"]
        rate, speed = large["records"] / large["seconds"], found["plain_bytes"] / large["seconds"] / 1e6
        memory = f"{large['peak_bytes'] / 1e6:.0f} | {small['peak_bytes'] / 1e6:.0f}"
        yield f"| {name} | {large['seconds']:.1f} | {rate:,.0f} | {speed:.0f} | {memory} |"
    for one in found["differences"]:
        yield f"{one['pmid']} {one['field']}: abstream {one['abstream']!r}, {OTHER} {one[OTHER]!r}"


def write_repeated(raw: Sequence[bytes], count: int, path: Path) -> int:
    """Write a gzipped file of ``count`` records, which are ``raw`` again and again; return its bytes before packing."""
    size = len(_HEAD) + len(_TAIL)
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write(_HEAD)
        for record in islice(cycle(raw), count):
            size += file.write(record + b"\n")
        file.write(_TAIL)
    return size


def differing(raw: Sequence[bytes], scratch: Path) -> list[dict[str, str]]:
    """Every field that the two read differently, from where it does; colons after labels and white space apart."""
    path = scratch / "each.xml.gz"
    write_repeated(raw, len(raw), path)
    return [
        {"pmid": mine["pmid"], "field": name, "abstream": _from(mine[name], its), OTHER: _from(its, mine[name])}
        for mine, other in zip(ours(str(path)), theirs(str(path)), strict=True)
        for name, its in other.items()
        if _alike(mine[name]) != _alike(its)
    ]


def articles_of(folder: Path) -> list[bytes]:
    """Its records but for books, which pubmed_parser does not know."""
    records: list[bytes] = []
    for path in sorted(folder.glob("*.xml")):
        with opened(str(path)) as file:
            found = [record.body for record in raw_records(plain(file)) if isinstance(record, RawRecord)]
            records += [body for body in found if body.startswith(b"<PubmedArticle")]
    if not records:
        raise AbstreamError(f"{folder} holds no .xml file with a PubmedArticle")
    return records


def _in_a_process(name: str, path: Path) -> Reading:
    command = [sys.executable, "-m", __name__, name, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AbstreamError(f"{name} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Reading(**json.loads(done.stdout))


def _median(readings: Sequence[Reading]) -> dict[str, float]:
    rows = zip(*(asdict(one).values() for one in readings), strict=True)
    return asdict(Reading(*map(statistics.median, rows)))


def _ratio(readings: dict[str, dict[str, list[Reading]]]) -> float:
    """The median of the rounds' ratios, as a slow minute of the machine meets both."""
    pairs = zip(readings["abstream"]["large"], readings[OTHER]["large"], strict=True)
    return statistics.median(other.seconds / mine.seconds for mine, other in pairs)


def _names(terms: str) -> str:
    """``D001:Brain; D002:Humans`` without the numbers."""
    return "; ".join(term.partition(":")[2].strip() for term in terms.split("; ") if term)


def _alike(text: str) -> str:
    return " ".join(text.replace(":", " ").split())


def _from(text: str, other: str) -> str:
    """A few words from where it differs from the other."""
    words, others = _alike(text).split(), _alike(other).split()
    same = next((at for at, pair in enumerate(zip(words, others, strict=False)) if pair[0] != pair[1]), len(others))
    return " ".join(words[same : same + 6])


def main(name: str, path: str) -> None:
    """Read one file once, in this process."""
    start = time.process_time()
    records = sum(1 for _ in READERS[name](path))
    seconds = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(json.dumps(asdict(Reading(records, seconds, peak))))


if __name__ == "__main__":
    main(*sys.argv[1:])
