"""The prompt is a contract between training and serving: its wording has a digest, and the digest is tested here."""

from abstream.schemas import ONCOLOGY, Abstract, Prompt, Question, Task

# The shipped phi3-nano and every adapter were trained on this wording. With another digest they must be trained again.
TRAINED_ON = "sha256:4e85c8fba0d9fc4ac94eb519b6b2af8bac90164aa090d44537a058b75ec0097f"


def test_the_wording_is_that_of_the_shipped_model():
    assert Prompt(ONCOLOGY).digest == TRAINED_ON


def test_another_wording_has_another_digest():
    first, second = ONCOLOGY.questions
    reworded = Task(name="oncology", questions=(first.model_copy(update={"text": "Cancer?"}), second))
    assert Prompt(reworded).digest != TRAINED_ON


def test_each_slot_continues_the_one_before():
    first, second = Prompt(ONCOLOGY).slots
    assert first.text == "<|end|>\n<|assistant|>\ncancer:"
    assert second.text == f"{first.text} A\ncancer_type:"
    assert second.answers[0] == " A"
    assert len(second.answers) == 20


def test_a_slot_nobody_depends_on_supposes_nothing():
    task = Task(name="two", questions=tuple(Question(name=n, text="?", labels=("yes", "no")) for n in ("a", "b")))
    assert Prompt(task).slots[1].text.endswith("a: -\nb:")


def test_the_body_is_title_and_text_where_there_are_any():
    assert Prompt.body(Abstract(title=" Title ", abstract=" Text.\n")) == "Title\nText."
    assert Prompt.body(Abstract(title=None, abstract="Text.")) == "Text."
    assert Prompt.body(Abstract(title="Title", abstract="")) == "Title"


def test_what_the_model_must_not_see_is_not_in_the_body():
    abstract = Abstract(
        title="T", abstract="Text.", mesh=("Neoplasms",), publication_types=("Review",), journal="Cancer"
    )
    assert Prompt.body(abstract) == "T\nText."
