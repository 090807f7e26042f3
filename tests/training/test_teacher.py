"""The base teaches as far as it agrees with the labels beyond chance, and less the more of them there are."""

import pytest
import torch
from abstream.consumer.engine.reference import reference_logits
from abstream.training.objective import NOT_ASKED, Example, Taught, slot_loss, taught
from abstream.training.teacher import Answered, Teacher
from torch.nn.functional import cross_entropy
from transformers import Phi3ForCausalLM

from .conftest import whole_examples

LOGITS = [torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])]
SAID = [torch.tensor([[0.9, 0.1], [0.2, 0.8]]), torch.tensor([[0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])]


def answered(right: list[int], found: list[int]) -> list[Answered]:
    """Records with one question of two labels."""
    surely = [((0.9, 0.1),), ((0.1, 0.9),)]
    return [
        Answered(str(number), (one,), surely[said]) for number, (one, said) in enumerate(zip(right, found, strict=True))
    ]


@pytest.mark.parametrize(
    ("right", "found", "kappa"),
    [
        ([0, 1, 0, 1], [0, 1, 0, 1], 1),
        ([0, 1, 0, 1], [0, 0, 0, 0], 0),  # it always says the same
        ([0, 1, 0, 1], [1, 0, 1, 0], 0),  # worse than chance
        ([0, 0, 0, 1], [0, 0, 1, 1], (0.75 - 0.5) / (1 - 0.5)),
        ([0, 1, NOT_ASKED, NOT_ASKED, 1, 0], [0, 1, 0, 1, 1, 0], 1),
        ([0, 0, 0, 0], [0, 0, 0, 0], 0),  # one label alone shows no agreement
        ([NOT_ASKED] * 4, [0, 1, 0, 1], 0),
    ],
)
def test_its_share_is_its_agreement_beyond_chance_with_the_labels_that_are_known(right, found, kappa):
    assert Teacher.of(answered(right, found), weight=12).shares == (pytest.approx(kappa * 12 / (12 + 4)),)


def test_it_counts_less_the_more_labels_there_are():
    shares = [Teacher.of(answered([0, 1] * n, [0, 1] * n), weight=100).shares[0] for n in (25, 50, 450)]
    assert shares == [pytest.approx(2 / 3), pytest.approx(1 / 2), pytest.approx(1 / 10)]


def test_the_loss_is_that_of_labels_mixed_with_what_it_says():
    answers = torch.tensor([[0, 2], [1, 0]])
    loss = slot_loss(LOGITS, answers, None, Taught(SAID, (0.5, 0.25)))

    expected = cross_entropy(LOGITS[0], 0.5 * torch.eye(2)[answers[:, 0]] + 0.5 * SAID[0])
    expected += cross_entropy(LOGITS[1], 0.75 * torch.eye(3)[answers[:, 1]] + 0.25 * SAID[1])
    assert loss.item() == pytest.approx(expected.item())


def test_weights_of_labels_hold_for_what_it_says_too():
    weights = [torch.tensor([1.0, 3.0]), torch.ones(3)]
    loss = slot_loss(LOGITS, torch.tensor([[0, NOT_ASKED], [1, NOT_ASKED]]), weights, Taught(SAID, (1.0, 1.0)))

    weighted = -weights[0] * SAID[0] * LOGITS[0].log_softmax(-1)
    assert loss.item() == pytest.approx(weighted.sum().item() / (1 + 3))


@pytest.mark.parametrize("weights", [None, [torch.tensor([1.0, 3.0]), torch.tensor([0.5, 1.0, 4.0])]])
def test_saying_what_the_labels_say_it_changes_nothing(weights):
    answers = torch.tensor([[1, 2], [1, 0]])
    agreeing = Taught([torch.eye(2)[answers[:, 0]], torch.eye(3)[answers[:, 1]]], (0.5, 0.25))

    assert slot_loss(LOGITS, answers, weights, agreeing).item() == pytest.approx(
        slot_loss(LOGITS, answers, weights).item()
    )


def test_of_a_question_that_is_not_asked_nothing_is_learned_from_it_either():
    logits = [rows.clone().requires_grad_() for rows in LOGITS]
    slot_loss(logits, torch.tensor([[0, NOT_ASKED], [1, NOT_ASKED]]), None, Taught(SAID, (0.5, 0.5))).backward()

    assert logits[1].grad.abs().max() == 0


def test_what_it_says_stands_beside_each_example_of_a_batch(tokens):
    batch = [
        Example(tokens, (0, 1), taught=((0.9, 0.1), (0.2, 0.8))),
        Example(tokens, (1, 0), taught=((0.3, 0.7), (0.4, 0.6))),
    ]
    given = taught(batch, (0.5, 0.4), torch.device("cpu"))

    assert [rows.tolist() for rows in given.probabilities] == [
        [pytest.approx([0.9, 0.1]), pytest.approx([0.3, 0.7])],
        [pytest.approx([0.2, 0.8]), pytest.approx([0.4, 0.6])],
    ]
    assert given.shares == (0.5, 0.4)


@pytest.fixture
def tokens(new_run):
    return whole_examples(new_run())[0].tokens


def test_it_is_the_base_before_anything_is_learned_reading_titles_and_texts(new_run, tiny):
    run = new_run(drop_title=0.9)
    run.train()
    base = Phi3ForCausalLM.from_pretrained(tiny.path).eval()

    assert run.teacher.said.keys() == {one.id for one in run.train_records}
    for one, example in zip(run.train_records, whole_examples(run), strict=True):
        plain = reference_logits(base, run.encoder, example.tokens)
        for said, logits in zip(run.teacher.said[one.id], plain, strict=True):
            assert said == pytest.approx(torch.tensor(logits).softmax(-1).tolist(), abs=1e-5)


def test_every_view_of_a_record_is_taught_the_same(new_run):
    run = new_run(drop_title=0.5)
    run.train()
    one = run.train_records[0]
    assert {run._shown(one, epoch).taught for epoch in range(8)} == {run.teacher.said[one.id]}


def test_without_a_weight_the_base_is_not_asked(new_run):
    run = new_run(teacher_weight=0)
    run.train()
    assert run.teacher is None
