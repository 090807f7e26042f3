"""The bundled sample is as its README describes it."""

import json
import re
from collections import Counter
from importlib.resources import files

from abstream.ops.files import Tally, usable
from abstream.schemas import ONCOLOGY

SPLITS = ("train", "validation", "test")
FORBIDDEN = re.compile(r"cancer|carcinoma|tumou?r|neoplas|malignan|oncolog", re.IGNORECASE)
RUN = 8  # words


def records(split: str) -> list[dict]:
    lines = (files("abstream.ops.sample") / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


EVERY = [record for split in SPLITS for record in records(split)]


def test_there_are_enough_of_each_label_and_every_type():
    labels = Counter(record["label"] for record in EVERY)
    assert len(EVERY) >= 240
    assert min(labels["Cancer"], labels["Non-Cancer"]) >= 120
    assert {record["cancer_type"] for record in EVERY} - {None} == set(ONCOLOGY.questions[1].labels)


def test_exactly_the_records_labelled_cancer_have_a_type():
    assert all((record["label"] == "Cancer") == (record["cancer_type"] is not None) for record in EVERY)


def test_every_split_has_every_kind_of_both_labels():
    kinds = [{(record["label"], record["kind"]) for record in records(split)} for split in SPLITS]
    assert kinds[0] == kinds[1] == kinds[2]
    assert len(kinds[0]) == 10


def test_the_hard_cases_are_hard():
    for record in EVERY:
        said = f"{record['title']} {record['text']}"
        assert not (record["kind"] == "no_word" and FORBIDDEN.search(said)), record["id"]
        assert (record["kind"] == "title_only") <= (not record["text"]), record["id"]
        assert (record["kind"] == "translated") <= record["title"].startswith("["), record["id"]


def test_no_text_is_a_variant_of_another():
    """No sequence of eight words occurs in two abstracts."""
    seen: dict[tuple[str, ...], str] = {}
    for record in EVERY:
        words = re.findall(r"\w+", f"{record['title']} {record['text']}".lower())
        for start in range(len(words) - RUN + 1):
            run = tuple(words[start : start + RUN])
            assert seen.setdefault(run, record["id"]) == record["id"], " ".join(run)


def test_ids_are_unique_and_every_record_can_be_published():
    tally = Tally()
    paths = [str(files("abstream.ops.sample") / f"{split}.jsonl") for split in SPLITS]
    assert len({record.id for record in usable(paths, "auto", tally)}) == len(EVERY)
    assert tally.broken == 0
