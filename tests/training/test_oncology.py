"""The labelled data of the shipped adapter: who labelled what."""

import gzip
import json
from collections import Counter

import pytest
from abstream.training import corpus, oncology

ASTHMA = "In {n} children with asthma the cough was gone after {n} weeks of treatment with the inhaler at home. " * 3
PASSING = ASTHMA + "None had cancer. "
TUMOURS = "In {n} patients tumours of any organ were treated, and after {n} weeks malignancy was found again. " * 3


@pytest.fixture
def data(tmp_path):
    """A source with abstracts of each kind, the others empty, and a few curated types."""
    texts = {name: [] for name in corpus.TEXTS}
    texts[corpus.MOLECULAR] = [
        {"title": f"Study {n}", "text": text.format(n=n)} for n, text in enumerate((ASTHMA, PASSING, TUMOURS) * 2)
    ]
    for name, rows in texts.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        with gzip.open(tmp_path / name, "wt") as lines:
            lines.writelines(json.dumps(row) + "\n" for row in rows)
    for name in corpus.JUDGED_ON:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (gzip.open if name.endswith(".gz") else open)(tmp_path / name, "wt").close()
    for name, sources in corpus.TYPED.items():
        rows = [
            {"title": "T", "text": ASTHMA, "source": of, "pmid": 1, "cancer_type": "lung"} for of in sorted(sources)
        ]
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "lexicon").mkdir()
    (tmp_path / "lexicon/DO_cancer_slim.obo").write_text("name: seminoma\n")
    return tmp_path


def test_curators_give_types_and_the_rule_gives_the_rest(data):
    rows = list(oncology.rows(data))

    kinds = Counter((row["id"].split("-")[0], row["label"], row["cancer_type"]) for row in rows)
    assert kinds == {
        ("typed", "Cancer", "lung"): 3,
        ("molecular", "Non-Cancer", None): 4,
        ("molecular", "Cancer", None): 2,
    }
    assert len({row["id"] for row in rows}) == len(rows)


def test_no_more_are_labelled_by_the_rule_than_wanted(data, monkeypatch):
    monkeypatch.setattr(oncology, "MOLECULAR", {"without": 1, "passing": 0, "untyped": 9})

    labels = Counter(row["label"] for row in oncology.rows(data) if row["id"].startswith("molecular"))
    assert labels == {"Non-Cancer": 1, "Cancer": 2}
