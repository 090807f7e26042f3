"""The benchmark of fine-tuning: every record is tested once, by an adapter that was not trained on it."""

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from abstream.ops import settings
from abstream.ops.bench.training import CASES, FOLDS, Case, run

SAMPLE = Path(settings.__file__).parent / "sample"


@pytest.fixture
def data(tmp_path) -> Path:
    """The bundled abstracts, where the benchmark looks for real ones."""
    (tmp_path / "abstracts").mkdir()
    for split in ("train", "validation"):
        text = (SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8")
        (tmp_path / f"abstracts/{split}.jsonl").write_text(text, encoding="utf-8")
    return tmp_path


def test_in_folds_each_record_is_tested_once_by_an_adapter_not_trained_on_it(data):
    splits = [tuple([row["id"] for row in part] for part in split) for split in CASES["cancer-folds"].splits(data)]

    measured_on = Counter(one for _, test in splits for one in test)
    assert len(splits) == FOLDS
    assert set(measured_on.values()) == {1}
    for train, test in splits:
        assert not set(train) & set(test)
        assert len(train) + len(test) == len(measured_on)


def test_the_figures_of_several_runs_pool_all_their_answers(data, tmp_path):
    rows = [json.loads(line) for line in (data / "abstracts/train.jsonl").read_text(encoding="utf-8").splitlines()]
    cancer, other = ([row for row in rows if row["label"] == label] for label in ("Cancer", "Non-Cancer"))
    train = [*islice(cancer, 12), *islice(other, 12)]
    case = Case(
        "all of one label each time",
        "cancer",
        "accuracy",
        lambda _: iter([(train, cancer[20:26]), (train, other[20:24])]),
    )

    found = run(case, data, tmp_path / "out", ["--epochs", "1", "--rank", "2", "--threads", "1"])

    assert found["n"] == [24, 10]
    assert found["figures"]["majority"][0] in (0.4, 0.6), "right in one of the two runs only"
