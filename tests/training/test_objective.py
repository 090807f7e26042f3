"""The loss is that of a plain loop over transformers' full logits; a question that is not asked adds nothing to it."""

import pytest
import torch
from abstream.consumer.engine.tokens import PromptEncoder
from abstream.schemas import Prompt
from abstream.training.objective import NOT_ASKED, Example, answers_of, batches, calibrated_loss, example, slot_loss
from abstream.training.recipe import Run
from peft import PeftModel
from torch import nn

from .conftest import TASK, records_of, whole_examples

LOGITS = [torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([[0.0, 1.0, 2.0], [3.0, 1.0, 0.0]])]


def with_gradient() -> list[torch.Tensor]:
    return [rows.clone().requires_grad_() for rows in LOGITS]


def test_a_question_that_is_not_asked_adds_nothing_to_loss_or_gradient():
    logits = with_gradient()
    loss = slot_loss(logits, torch.tensor([[0, NOT_ASKED], [1, 2]]))
    loss.backward()

    expected = nn.functional.cross_entropy(LOGITS[0], torch.tensor([0, 1]))
    expected += nn.functional.cross_entropy(LOGITS[1][1:], torch.tensor([2]))
    assert loss.item() == pytest.approx(expected.item())
    assert logits[1].grad[0].tolist() == [0, 0, 0]
    assert logits[1].grad[1].abs().min() > 0


def test_where_nothing_is_asked_the_loss_is_zero_and_has_a_gradient():
    """Processes that train together wait for the gradient of every weight."""
    logits = with_gradient()
    loss = slot_loss(logits, torch.full((2, 2), NOT_ASKED))
    loss.backward()

    assert loss.item() == 0
    assert all(rows.grad.abs().max() == 0 for rows in logits)


def test_weights_are_those_of_the_labels():
    weights = [torch.tensor([1.0, 3.0]), torch.ones(3)]
    loss = slot_loss(LOGITS, torch.tensor([[0, NOT_ASKED], [1, NOT_ASKED]]), weights)

    each = nn.functional.cross_entropy(LOGITS[0], torch.tensor([0, 1]), reduction="none")
    assert loss.item() == pytest.approx(((each[0] + 3 * each[1]) / 4).item())


def test_an_example_names_the_right_label_of_each_question(new_run):
    run = new_run()
    trial, arm = (whole_examples(run)[number].answers for number in (1, 4))
    assert trial == (1, NOT_ASKED)
    assert arm == (0, 1)


def test_batches_hold_every_example_once_and_few_enough_tokens(new_run):
    examples = whole_examples(new_run())
    packed = list(batches(examples, 120))

    assert sorted(map(id, (one for batch in packed for one in batch))) == sorted(map(id, examples))
    assert all(len(batch) == 1 or len(batch) * max(one.tokens.tail_length for one in batch) <= 120 for batch in packed)


@pytest.fixture
def run(new_run):
    """A run with random LoRA weights: with the initial ones, half of them would have no gradient."""
    run = new_run(dropout=0)
    torch.manual_seed(1)
    for name, weight in run.model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            nn.init.normal_(weight, std=0.1)
    return run


def test_loss_and_gradients_are_those_of_a_plain_loop_over_transformers(run, tiny):
    """One prompt at a time, without cache, padding or our attention, with the logits of the whole vocabulary."""
    batch = whole_examples(run)[:6]
    ours = slot_loss(run._logits(run.classifier, batch), answers_of(batch, run.device))
    our_gradients = lora_gradients(run, ours)

    plain = plain_loss(run.model, PromptEncoder(tiny.path, Prompt(TASK), 512), batch)

    assert ours.item() == pytest.approx(plain.item(), abs=1e-5)
    for name, gradient in lora_gradients(run, plain).items():
        assert gradient.abs().max() > 0
        assert torch.allclose(our_gradients[name], gradient, atol=1e-4 * gradient.abs().max().item()), name


def plain_loss(model: PeftModel, encoder: PromptEncoder, batch: list[Example]) -> torch.Tensor:
    model.base_model.model.set_attn_implementation("eager")
    losses: list[list[torch.Tensor]] = [[] for _ in encoder.slots]
    for one in batch:
        logits = model(input_ids=torch.tensor([one.tokens.ids]), use_cache=False).logits[0]
        for question, (slot, answer) in enumerate(zip(encoder.slots, one.answers, strict=True)):
            if answer != NOT_ASKED:
                right = torch.tensor(answer)
                losses[question].append(nn.functional.cross_entropy(logits[slot.offset, list(slot.labels)], right))
    return torch.stack([torch.stack(each).mean() for each in losses]).sum()


def lora_gradients(run: Run, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    learning = {name: weight for name, weight in run.model.named_parameters() if weight.requires_grad}
    return dict(zip(learning, torch.autograd.grad(loss, learning.values()), strict=True))


def test_an_example_without_any_answer_is_all_not_asked(run, tiny):
    encoder = PromptEncoder(tiny.path, Prompt(TASK), 512)
    assert example(encoder, TASK, records_of(1)[0].abstract, {}).answers == (NOT_ASKED, NOT_ASKED)


def test_calibrated_the_loss_does_not_depend_on_how_sure_the_answers_are():
    logits, answers = torch.tensor([[2.0, 0], [0, 2], [2, 0], [0.5, 0]]), torch.tensor([0, 1, 1, 0])

    measured = [calibrated_loss(sure * logits, answers) for sure in (0.2, 1, 5)]

    assert measured == pytest.approx([measured[0]] * 3, abs=5e-3)
    assert measured[0] <= nn.functional.cross_entropy(logits, answers).item()
