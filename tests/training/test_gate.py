"""The gate: the rules that must hold before an adapter is announced."""

import pytest
from abstream.schemas import ONCOLOGY
from abstream.training.gate import GateInvalid, as_event, check, judge, parse

FIGURES = {"cancer.accuracy": 0.92, "cancer.macro_f1": 0.91, "cancer.f1_Non-Cancer": 0.9, "cancer_type.macro_f1": 0.7}
LIVE = {"cancer.accuracy": 0.90, "cancer.macro_f1": 0.93, "cancer_type.macro_f1": 0.7}


def passes(gate: str) -> bool:
    return as_event(judge(parse(gate), "cancer", FIGURES, LIVE)).passed


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("accuracy>=0.90", True),
        ("accuracy >= 0.92", True),
        ("accuracy>=0.93", False),
        ("f1_Non-Cancer<=0.9", True),
        ("f1_Non-Cancer<=0.89", False),
        ("cancer_type.macro_f1>=.7", True),
    ],
)
def test_a_bound_is_held_by_the_figure_itself(gate, passed):
    assert passes(gate) is passed


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("accuracy>=+0.02", True),  # 0.92 against 0.90, whose difference is a little less in floating point
        ("accuracy>=+0.03", False),
        ("macro_f1>=-0.02", True),
        ("macro_f1>=+0", False),
        ("cancer_type.macro_f1>=+0", True),
    ],
)
def test_a_sign_makes_it_a_bound_of_the_difference_to_what_is_live(gate, passed):
    assert passes(gate) is passed


def test_every_rule_must_hold():
    assert passes("accuracy>=0.9,macro_f1>=0.9")
    assert not passes("accuracy>=0.9,macro_f1>=0.95")


def test_the_event_says_of_each_rule_what_was_measured():
    gate = as_event(judge(parse("accuracy>=0.95, macro_f1>=-0.1"), "cancer", FIGURES, LIVE))
    assert gate.rules == (
        "failed: accuracy>=0.95, measured 0.9200",
        "passed: macro_f1>=-0.1, measured 0.9100 (reference 0.9300)",
    )


@pytest.mark.parametrize("gate", ["accuracy", "accuracy>0.9", "accuracy>=high", "", ">=0.9"])
def test_a_rule_that_cannot_be_read_is_named(gate):
    with pytest.raises(GateInvalid, match="rule"):
        parse(gate)


def test_a_figure_that_was_not_measured_is_named_with_those_that_were():
    with pytest.raises(GateInvalid, match=r"no figure cancer\.recall; measured were cancer\.accuracy"):
        passes("recall>=0.9")
    with pytest.raises(GateInvalid, match=r"no figure cancer\.f1_Non-Cancer; measured were cancer\.accuracy"):
        passes("f1_Non-Cancer>=+0.1")  # of the live adapter


@pytest.mark.parametrize("gate", ["acuracy>=0.9", "type.accuracy>=0.9", "f1_Benign>=0.9", "cancer_type.f1_Cancer>=0.9"])
def test_what_no_run_of_the_task_can_measure_is_known_before(gate):
    with pytest.raises(GateInvalid, match=r"there is no (figure|question) .*; there are "):
        check(parse(gate), ONCOLOGY)


def test_what_a_run_can_measure_passes_the_check():
    check(parse("accuracy>=0.9,f1_Non-Cancer>=+0,cancer_type.f1_lung>=0,cancer_type.calibration_error<=0.1"), ONCOLOGY)
