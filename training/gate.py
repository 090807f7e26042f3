"""Whether an adapter is good enough to be announced: rules over its figures. Pure functions.

accuracy>=0.90                   a bound
macro_f1>=+0.02                  with a sign: relative to the live adapter, or to the bare base if there is none
cancer_type.macro_f1>=0.80       of a question other than the task's first
f1_Non-Cancer>=0.9, calibration_error<=0.05
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..schemas import AbstreamError, Task
from ..schemas.events import Gate

_RULE = re.compile(r"(?:(\w+)\.)?(\w[\w -]*?)\s*(>=|<=)\s*([+-]?)(\d*\.?\d+)")

_FIGURES = ("accuracy", "macro_f1", "calibration_error")  # and the F1 of each label

Figures = Mapping[str, float]
"""``question.figure`` to its value, as in an adapter's manifest: ``cancer.accuracy``, ``cancer.f1_Non-Cancer``."""


class GateInvalid(AbstreamError):
    """A rule cannot be read, or names a figure that was not measured: correct the rule."""


@dataclass(frozen=True)
class Rule:
    """A bound on one figure or, if ``relative``, on its difference from a reference."""

    text: str
    question: str | None
    figure: str
    at_least: bool
    bound: float
    relative: bool


@dataclass(frozen=True)
class Verdict:
    """The result of one rule."""

    rule: Rule
    value: float
    reference: float | None
    passed: bool

    def __str__(self) -> str:
        against = f" (reference {self.reference:.4f})" if self.reference is not None else ""
        return f"{'passed' if self.passed else 'failed'}: {self.rule.text}, measured {self.value:.4f}{against}"


def parse(text: str) -> tuple[Rule, ...]:
    """The rules in a comma-separated text.

    Raises:
        GateInvalid: one cannot be read.
    """
    rules = []
    for part in filter(None, map(str.strip, text.split(","))):
        if not (match := _RULE.fullmatch(part)):
            raise GateInvalid(f"{part!r} is not a rule: write, for example, accuracy>=0.90, macro_f1>=+0.02")
        question, figure, comparison, sign, bound = match.groups()
        signed = -float(bound) if sign == "-" else float(bound)
        rules.append(Rule(part, question, figure, comparison == ">=", signed, bool(sign)))
    if not rules:
        raise GateInvalid("the gate has no rule")
    return tuple(rules)


def check(rules: Iterable[Rule], task: Task) -> None:
    """Check that a run of ``task`` can measure what the rules name, so that a misspelt one fails before training.

    Raises:
        GateInvalid: a rule names a question or a figure that does not exist.
    """
    labels = {question.name: question.labels for question in task.questions}
    for rule in rules:
        name = rule.question or task.questions[0].name
        if name not in labels:
            raise GateInvalid(f"{rule.text}: there is no question {name}; there are {', '.join(labels)}")
        known = [*_FIGURES, *(f"f1_{label}" for label in labels[name])]
        if rule.figure not in known:
            raise GateInvalid(f"{rule.text}: there is no figure {rule.figure}; there are {', '.join(known)}")


def judge(rules: Iterable[Rule], first_question: str, figures: Figures, reference: Figures) -> tuple[Verdict, ...]:
    """Apply the rules to ``figures``; a rule without a question is about ``first_question``.

    Raises:
        GateInvalid: a rule names a figure that was not measured.
    """
    return tuple(_judge(rule, f"{rule.question or first_question}.{rule.figure}", figures, reference) for rule in rules)


def as_event(verdicts: Iterable[Verdict]) -> Gate:
    """The verdicts as an adapter update carries them."""
    verdicts = tuple(verdicts)
    return Gate(passed=all(one.passed for one in verdicts), rules=tuple(map(str, verdicts)))


def _judge(rule: Rule, name: str, figures: Figures, reference: Figures) -> Verdict:
    for known in (figures, reference) if rule.relative else (figures,):
        if name not in known:
            raise GateInvalid(f"{rule.text}: there is no figure {name}; measured were {', '.join(sorted(known))}")
    against = reference[name] if rule.relative else None
    margin = figures[name] - (against or 0.0) - rule.bound
    # Tolerate rounding: 0.92 - 0.90 is a little under 0.02 in floating point.
    passed = margin >= -1e-9 if rule.at_least else margin <= 1e-9
    return Verdict(rule, figures[name], against, passed)
