"""A submission has the values of the event's model, and is refused exactly if the model is."""

from random import Random

from abstream import AbstractSubmitted, Malformed
from abstream.schemas import Submission, submission
from abstream.schemas.parsing import received

from ..consumer.mutations import mutated

COUNT = 2_000
SEED = 5


class LeftToModels(Exception):
    """An event broke a rule, and is left to the models, which say why."""


def test_dicts_keep_the_rules_of_the_models(monkeypatch):
    def leave(*_: object) -> None:
        raise LeftToModels

    monkeypatch.setattr(submission, "received", leave)
    chance = Random(SEED)
    bodies = [body for _ in range(COUNT) if (body := mutated(chance).get(b"event"))]
    for body in bodies:
        by_models = read_by_models(body)
        try:
            assert submission.parse_submitted(body) == by_models
        except LeftToModels:
            assert by_models is None, "it was refused without a reason"
        except Malformed:
            assert by_models, "a name was given twice, which the models do not see"
    sound = sum(read_by_models(body) is not None for body in bodies)
    assert COUNT / 10 < sound < len(bodies) - COUNT / 10, "too few of one kind for this to say much"


def read_by_models(body: bytes) -> Submission | None:
    try:
        return Submission.of(received(AbstractSubmitted, body))
    except Malformed:
        return None
