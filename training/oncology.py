"""The labelled data of the shipped oncology adapter: only what may be shipped, as two files for ``abstream train``.

    python -m abstream.training.oncology --data DATA --sample ops/sample --out runs/oncology
    abstream train --data runs/oncology/train.jsonl --validation runs/oncology/validation.jsonl --name oncology \\
        --epochs 3 --card-notes training/templates/oncology.md --out runs/oncology
    cp -r runs/oncology/adapter ops/models/phi3-nano-oncology

Types come from curators and from a dictionary over titles, Non-Cancer and the rest of Cancer from the word rule
(``weak_labels``), the hard cases from the bundled sample.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..schemas import Abstract
from . import corpus
from .weak_labels import WeakLabels, cancer_mentions

# Abstracts that the rule labels, of each kind, from molecular biology and from all other sources. Most are molecular:
# the curated statements, all Cancer, seldom name cancer, and would teach that whatever speaks of genes is Cancer.
MOLECULAR = {"without": 1_200, "passing": 200, "untyped": 100}
OTHER = {"without": 600, "passing": 200, "untyped": 200}
VALIDATION_SHARE = 0.1
SEED = 7

Row = dict[str, Any]


def rows(data: Path) -> Iterator[Row]:
    """Every curated record, and as many as wanted that the rule labels; each with an ``id`` of its own."""
    for number, (abstract, kind) in enumerate(corpus.typed(data)):
        yield _row(f"typed-{number}", abstract, "Cancer", kind)
    yield from _weakly_labelled(data)


def _weakly_labelled(data: Path) -> Iterator[Row]:
    """Abstracts with a title: free of cancer words, naming one in passing, or about cancer in general."""
    label = WeakLabels(data / "lexicon" / "DO_cancer_slim.obo")
    others = [name for name in corpus.TEXTS if name != corpus.MOLECULAR]
    for what, names, most in (("molecular", [corpus.MOLECULAR], MOLECULAR), ("other", others, OTHER)):
        left = dict(most)
        titled = [abstract for abstract in corpus.texts(data, names) if abstract.title]
        random.Random(SEED).shuffle(titled)
        for number, abstract in enumerate(titled):
            group = _group(label, abstract)
            if group and left[group]:
                left[group] -= 1
                yield _row(f"{what}-{number}", abstract, "Cancer" if group == "untyped" else "Non-Cancer", None)


def _group(label: WeakLabels, abstract: Abstract) -> str | None:
    if label.cancer(abstract) == "Cancer":
        return "untyped" if cancer_mentions(abstract) >= 6 and not label.kind(abstract) else None
    return "passing" if cancer_mentions(abstract) else "without"


def _row(identity: str, abstract: Abstract, label: str, kind: str | None) -> Row:
    return {"id": identity, "title": abstract.title, "text": abstract.abstract, "label": label, "cancer_type": kind}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretraining/, cancer_types/, lexicon/")
    parser.add_argument("--sample", type=Path, required=True, help="the bundled sample")
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    everything = list(rows(arguments.data))
    random.Random(SEED).shuffle(everything)
    held = round(VALIDATION_SHARE * len(everything))
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, part in (("validation", everything[:held]), ("train", everything[held:])):
        own = list(corpus.records(arguments.sample / f"{name}.jsonl"))
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in (*part, *own))
        (arguments.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(part) + len(own)} abstracts")


if __name__ == "__main__":
    main()
