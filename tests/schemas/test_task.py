"""A task that contradicts itself cannot be built."""

import json

import pytest
from abstream.schemas import ONCOLOGY, Condition, Question, Task, TaskInvalid
from pydantic import ValidationError


def question(name: str, *labels: str, asked_if: tuple[str, str] | None = None) -> Question:
    condition = Condition(question=asked_if[0], label=asked_if[1]) if asked_if else None
    return Question(name=name, text="What?", labels=labels or ("yes", "no"), asked_if=condition)


def test_the_default_task_asks_for_cancer_and_then_for_one_of_twenty_types():
    first, second = ONCOLOGY.questions
    assert first.labels == ("Cancer", "Non-Cancer")
    assert len(second.labels) == 20
    assert second.asked_if == Condition(question="cancer", label="Cancer")


@pytest.mark.parametrize(("answered", "asked"), [("Cancer", ["cancer", "cancer_type"]), ("Non-Cancer", ["cancer"])])
def test_a_question_is_asked_where_its_condition_holds(answered, asked):
    assert [one.name for one in ONCOLOGY.asked({"cancer": answered})] == asked


CONTRADICTIONS = {
    "no question": ([], "at least 1 item"),
    "a name twice": ([question("a"), question("a")], "stands twice"),
    "a condition on a later question": (
        [question("a", asked_if=("b", "yes")), question("b")],
        "not an earlier question",
    ),
    "a condition on no label": ([question("a"), question("b", asked_if=("a", "maybe"))], "no label of 'a'"),
    "two suppositions": (
        [question("a"), question("b", asked_if=("a", "yes")), question("c", asked_if=("a", "no"))],
        "suppose different answers",
    ),
}


@pytest.mark.parametrize(("questions", "said"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_contradiction_cannot_be_built(questions, said):
    with pytest.raises(ValidationError, match=said):
        Task(name="bad", questions=tuple(questions))


@pytest.mark.parametrize("labels", [("one",), ("same", "same"), tuple(map(str, range(53))), ("<|end|>", "other")])
def test_labels_are_two_to_fifty_two_different_plain_names(labels):
    with pytest.raises(ValidationError):
        question("a", *labels)


def test_a_task_file_says_what_is_wrong_with_it(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"name": "x", "questions": [{"name": "a", "text": "What?", "labels": ["one"]}]}))

    with pytest.raises(TaskInvalid, match=r"questions\.0\.labels"):
        Task.from_file(path)
    path.write_text(json.dumps({"name": "x", "questions": [{"name": "a", "text": "What?", "labels": ["b", "b"]}]}))
    with pytest.raises(TaskInvalid) as told:
        Task.from_file(path)
    assert str(told.value) == f"{path}: questions.0: question 'a' has a label twice", "nor that a question is missing"
    with pytest.raises(TaskInvalid, match="cannot read"):
        Task.from_file(tmp_path / "none.json")


def test_a_task_survives_its_file(tmp_path):
    path = tmp_path / "task.json"
    path.write_text(ONCOLOGY.model_dump_json())

    assert Task.from_file(path) == ONCOLOGY
