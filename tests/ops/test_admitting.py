"""An eight-bit dtype is served only for adapters whose accuracy it was measured to keep; else bfloat16 is."""

import json

import pytest
import structlog
from abstream.consumer.engine.fake import FakeEngine
from abstream.ops import admitting
from abstream.ops.admitting import Measurement, admit, admitted


@pytest.fixture(autouse=True)
def _a_cache_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Engine(FakeEngine):
    """The fake engine with a receipt that names ``dtype``."""

    def __init__(self, dtype: str, adapter=None):
        super().__init__(adapter=adapter)
        receipt = self.model.receipt.model_copy(update={"dtype": dtype})
        self.model = type(self.model)(**{**vars(self.model), "receipt": receipt})


class Opposite(Engine):
    """Gives the opposite of every first answer."""

    def classify(self, batch):
        given = super().classify(batch)
        turned = [(tuple(-logit for logit in rows[0]), *rows[1:]) for rows in given.logits]
        return type(given)(given.model, turned)


@pytest.fixture
def data(tmp_path):
    """A file of abstracts, labelled as the fake engine answers them."""
    from abstream.consumer.engine.scoring import answer
    from abstream.schemas import Abstract

    engine, rows = FakeEngine(), []
    for number in range(20):
        text = f"Abstract {number}"
        logits = engine.classify([engine.encode(Abstract(abstract=text))]).logits[0]
        rows.append(
            {"id": str(number), "title": None, "text": text, "label": answer(engine.model, logits)[0]["cancer"].label}
        )
    file = tmp_path / "labelled.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return str(file)


def plain():
    return Engine("bfloat16")


def test_an_unmeasured_dtype_is_served_in_bfloat16_and_the_log_says_how_to_measure():
    with structlog.testing.capture_logs() as logs:
        assert admitted(Engine("int8"), plain).model.receipt.dtype == "bfloat16"
    assert "abstream admit --dtype int8" in logs[0]["mend"]


def test_a_dtype_that_keeps_the_accuracy_is_served(data):
    assert admit(data, Engine("int8"), plain()).passed
    assert admitted(Engine("int8"), plain).model.receipt.dtype == "int8"
    assert admitted(Engine("fp8"), plain).model.receipt.dtype == "bfloat16", "not measured"


def test_a_dtype_that_loses_accuracy_is_not_served(data):
    found = admit(data, Opposite("int8"), plain())
    assert found.plain["cancer"] == 1
    assert not found.passed
    with structlog.testing.capture_logs() as logs:
        assert admitted(Engine("int8"), plain).model.receipt.dtype == "bfloat16"
    assert "100.0 points" in logs[0]["why"]


def test_every_adapter_is_measured_by_itself(data, make_adapter):
    admit(data, Engine("int8"), plain())
    assert admitted(Engine("int8", make_adapter("2")), plain).model.receipt.dtype == "bfloat16"


def test_plain_dtypes_need_no_admission():
    engine = Engine("float32")
    assert admitted(engine, plain) is engine


@pytest.mark.parametrize(("lost", "passed"), [(-0.01, True), (0.0, True), (0.0029, True), (0.004, False)])
def test_three_tenths_of_a_point_may_be_lost(lost, passed):
    assert Measurement(1_000, {"cancer": 0.9, "type": 0.8}, {"cancer": 0.95, "type": 0.8 - lost}).passed is passed


def test_the_measured_accuracies_are_shown():
    found = Measurement(1_000, {"cancer": 0.9}, {"cancer": 0.85})
    assert "90.00% in bfloat16, 85.00% in eight bits" in admitting.shown(found, as_json=False)
    assert json.loads(admitting.shown(found, as_json=True))["passed"] is False
