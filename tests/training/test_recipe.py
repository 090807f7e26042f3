"""A fine-tuning run repeats itself bit for bit, goes on after a kill as if nothing had been, and says when it fails."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from abstream.consumer.engine.reference import reference_logits
from abstream.consumer.engine.weights import BaseFolder, locate
from abstream.schemas import Abstract, ModelUnusable
from abstream.training import recipe
from abstream.training.config import TrainConfig
from abstream.training.data import Labelled
from abstream.training.objective import NOT_ASKED, Example, slot_loss
from abstream.training.recipe import CHECKPOINT, Progress, Run, Splits, TrainingDiverged
from peft import PeftModel
from torch import Tensor
from transformers import Phi3ForCausalLM

from .conftest import ONE_CPU, TASK, records_of, whole_examples


def trained(run: Run) -> dict[str, Tensor]:
    run.train()
    return run._lora_state()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_bit_for_bit(new_run, precision):
    first, second = (trained(new_run(name, precision=precision)) for name in ("1", "2"))
    other = trained(new_run("3", precision=precision, seed=8))

    assert same(first, second)
    assert not same(first, other)


def test_the_base_is_rounded_and_what_learns_is_not(new_run):
    dtypes = {(weight.requires_grad, weight.dtype) for weight in new_run(precision="bfloat16").model.parameters()}
    assert dtypes == {(False, torch.bfloat16), (True, torch.float32)}


def test_only_the_lora_weights_learn(new_run):
    run = new_run()
    learning = {name for name, weight in run.model.named_parameters() if weight.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)


def test_layers_that_the_base_does_not_have_are_named(new_run):
    with pytest.raises(ModelUnusable, match=r"phi3-tiny .*nope"):
        new_run(target_modules=("nope",))


def test_prompts_are_cut_where_serving_cuts_them(tiny, tmp_path):
    """With LongRoPE that is before the longest prompt, at which the frequencies change."""
    folder = tmp_path / "long"
    shutil.copytree(tiny.path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["rope_parameters"] |= {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    (folder / "config.json").write_text(json.dumps(config | {"original_max_position_embeddings": 256}))
    splits = Splits(TASK, frozenset({"trial", "arm"}), records_of(16), records_of(6))

    run = Run(TrainConfig(data="unused", **ONE_CPU), splits, locate(str(folder)), tmp_path, lambda _: None)

    assert run.encoder.max_tokens == 256


def test_embeddings_learn_but_for_those_of_the_label_tokens(new_run):
    run = new_run(learning_rate=0.02)
    labels = sorted({label for slot in run.encoder.slots for label in slot.labels})
    [learned] = [weight for name, weight in trained(run).items() if name.endswith("lora_embedding_A")]

    assert learned.any(dim=0).sum() > 10
    assert not learned[:, labels].any()


def test_embeddings_begin_with_an_eighth_of_what_peft_begins_with(new_run):
    """It begins with a standard deviation of one, by which each step would move an embedding too far."""
    [start] = [weight for name, weight in new_run().model.named_parameters() if "lora_embedding_B" in name]
    assert start.std().item() == pytest.approx(recipe.EMBEDDINGS_START, rel=0.3)


@pytest.mark.filterwarnings("ignore:Model (has|with) `tie_word_embeddings=True`")
def test_plain_peft_merges_it_into_a_base_whose_embeddings_are_tied(tiny, tmp_path):
    """It adds what the embeddings learned to the output as well: the answers must not notice."""
    base = with_tied_embeddings(tiny, tmp_path / "tied")
    config = TrainConfig(data="unused", rank=2, epochs=1, learning_rate=0.02, batch_tokens=200, **ONE_CPU)
    splits = Splits(TASK, frozenset({"trial", "arm"}), records_of(16), records_of(6))
    run = Run(config, splits, base, tmp_path, lambda _: None)
    run.train()
    run.save(tmp_path / "adapter")
    plain = PeftModel.from_pretrained(Phi3ForCausalLM.from_pretrained(base.path), tmp_path / "adapter")
    tokens = run.validation_examples[0].tokens

    apart = reference_logits(plain.eval(), run.encoder, tokens)
    merged = reference_logits(plain.merge_and_unload().eval(), run.encoder, tokens)

    learned = [rows[0].tolist() for rows in run._logits(run.classifier.eval(), run.validation_examples[:1])]
    for one, other, mine in zip(apart, merged, learned, strict=True):
        assert one == pytest.approx(mine, abs=1e-4)
        assert other == pytest.approx(mine, abs=1e-4)


def with_tied_embeddings(base: BaseFolder, folder: Path) -> BaseFolder:
    shutil.copytree(base.path, folder)
    model = Phi3ForCausalLM.from_pretrained(base.path)
    model.lm_head.weight = model.model.embed_tokens.weight
    model.config.tie_word_embeddings = True
    model.save_pretrained(folder)
    return locate(str(folder))


def test_it_learns_what_the_texts_give_away(new_run):
    """Even of a base of random weights: the validation loss falls well below where it began."""
    run = new_run(records=records_of(60), epochs=8, learning_rate=0.003, rank=8, dropout=0)
    untrained = run._validation_loss()
    assert run.train().best_loss < 0.7 * untrained


class Killed(BaseException):
    pass


def kill_after(steps: int):
    left = iter(range(steps))

    def show(done: float) -> None:
        if next(left, None) is None:
            raise Killed

    return show


@pytest.mark.parametrize("steps", [0, 1, 3, 5])
def test_a_run_that_was_killed_ends_as_if_it_had_not_been(new_run, steps):
    """In the first epoch and in the second, with dropout, and with titles that are dropped by chance."""
    whole = new_run("whole")
    expected = trained(whole)
    with pytest.raises(Killed):
        new_run("killed", kill_after(steps), checkpoint_steps=2).train()

    again = new_run("killed", checkpoint_steps=2)
    weights = trained(again)

    assert same(weights, expected)
    assert again.progress == whole.progress
    assert again.teacher == whole.teacher


@pytest.mark.parametrize(("steps", "kept"), [(1, (0, 0)), (2, (0, 2)), (3, (1, 0))])
def test_a_killed_run_goes_on_from_its_last_checkpoint(new_run, steps, kept):
    """There is one after every second step, and one after the third, which ends the epoch."""
    with pytest.raises(Killed):
        new_run("killed", kill_after(steps), checkpoint_steps=2).train()
    again = new_run("killed", checkpoint_steps=2)
    again._resume()
    assert (again.progress.epoch, again.progress.step) == kept


def test_a_run_killed_while_it_writes_a_checkpoint_has_the_last_one(new_run, monkeypatch):
    run = new_run()
    run._save()

    def write_half(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise Killed

    monkeypatch.setattr(torch, "save", write_half)
    with pytest.raises(Killed):
        run.train()

    again = new_run()
    again._resume()
    assert again.progress == Progress()


def test_a_checkpoint_of_another_precision_is_not_gone_on_from(new_run, monkeypatch):
    """As on a machine without bfloat16, if the config leaves the choice to the machine."""
    for has_bfloat16 in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda has=has_bfloat16: has)
        run = new_run(precision="auto", epochs=1)
        run._resume()
        assert run.dtype is (torch.bfloat16 if has_bfloat16 else torch.float32)
        assert run.progress.epoch == 0
        run.train()


def test_a_checkpoint_of_other_data_or_another_config_is_not_gone_on_from(new_run):
    """Another text under the same file name, or another knob, is another run."""
    expected = trained(new_run("fresh", seed=9))
    new_run("run").train()
    other = new_run("run", records=records_of(12))

    assert same(trained(new_run("run", seed=9)), expected)
    other._resume()
    assert other.progress.epoch == 0


def test_a_checkpoint_holds_no_text(new_run):
    run = new_run()
    run.train()
    assert b"went on" not in (run.out / CHECKPOINT).read_bytes()


def test_no_checkpoint_asks_the_hub_for_the_base(new_run, monkeypatch):
    """PEFT would ask it for the base's config whenever LoRA weights are taken from the model."""
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *_: pytest.fail("asked"))
    run = new_run(epochs=1)
    run.train()
    run.save(run.out / "adapter")


def test_it_ends_when_validation_gets_no_better_and_keeps_the_best(new_run, monkeypatch):
    """Patience of two: the second epoch is the best of four, and of ten no more are run."""
    losses, seen = iter([3.0, 1.0, 2.0, 1.5, 0.1]), []
    run = new_run(epochs=10, patience=2)

    def validation_loss() -> float:
        seen.append({name: weight.clone() for name, weight in run._lora_state().items()})
        return next(losses)

    monkeypatch.setattr(run, "_validation_loss", validation_loss)
    progress = run.train()

    assert (progress.epoch, progress.best_epoch, progress.best_loss) == (4, 2, 1.0)
    assert same(run._lora_state(), seen[1])


def test_a_loss_that_is_no_number_ends_the_run(new_run):
    with pytest.raises(TrainingDiverged, match=r"the loss is (nan|inf) in epoch \d, step \d+: lower the learning rate"):
        new_run(learning_rate=1e30, epochs=20).train()


def test_a_validation_loss_that_is_no_number_ends_the_run(new_run, monkeypatch):
    run = new_run()
    monkeypatch.setattr(run, "_validation_loss", lambda: math.nan)
    with pytest.raises(TrainingDiverged):
        run.train()


def gradients(run: Run, batches: list[list[Example]]) -> dict[str, Tensor]:
    run.classifier.train()
    run.optimizer.zero_grad = lambda: None
    run.step(batches, 0.5)
    return {name: weight.grad for name, weight in run.model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize(("done", "share"), [(0.0, 0.01), (0.05, 0.505), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0)])
def test_the_learning_rate_rises_to_its_peak_and_falls_to_nothing(new_run, done, share):
    run = new_run(learning_rate=0.002, warmup=0.1)
    run.step([whole_examples(run)[:1]], done)
    [group] = run.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.002 * share, abs=2e-6)


def test_a_steep_loss_moves_the_weights_no_further_than_others(new_run, monkeypatch):
    monkeypatch.setattr(recipe, "slot_loss", lambda *args: 1_000 * slot_loss(*args))
    run = new_run(dropout=0)
    found = gradients(run, [whole_examples(run)])
    assert torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in found.values()])) == pytest.approx(1)


def test_a_step_forgets_the_gradients_of_the_last(new_run):
    run = new_run()
    run.step([whole_examples(run)[:1]], 0.5)
    assert all(weight.grad is None for weight in run.model.parameters())


def test_dropout_is_for_training_alone_and_in_every_epoch(new_run):
    trains: list[bool] = []
    run = new_run(show=lambda _: trains.append(run.classifier.training), dropout=0.5)
    run.train()
    assert trains
    assert all(trains)
    run.classifier.train()
    assert run._validation_loss() == run._validation_loss()


def test_in_the_validation_loss_every_answer_weighs_the_same(new_run, monkeypatch):
    """There are six answers to the first question, and two to the second."""
    monkeypatch.setattr(recipe, "calibrated_loss", lambda logits, _: {2: 1.0, 3: 5.0}[logits.shape[1]])
    assert new_run()._validation_loss() == pytest.approx((6 * 1 + 2 * 5) / 8)


@pytest.mark.parametrize("setting", [{"rank": 4}, {"alpha": 64}, {"dropout": 0.4}, {"weight_decay": 50.0}], ids=str)
def test_other_settings_learn_other_weights(new_run, setting):
    assert not same(trained(new_run("usual", epochs=1)), trained(new_run("other", epochs=1, **setting)))


def test_two_accumulated_batches_of_equal_size_are_one_of_twice_the_size(new_run):
    """Of equal size and with as many answers; otherwise each batch counts alike, and so its examples do not."""
    examples = [one for one in whole_examples(new_run(dropout=0)) if one.answers[1] >= 0]
    assert len(examples) == 4

    apart = gradients(new_run("apart", dropout=0), [examples[:2], examples[2:]])
    together = gradients(new_run("together", dropout=0), [examples])

    for name, gradient in together.items():
        assert torch.allclose(apart[name], gradient, rtol=1e-4, atol=1e-6), name


def test_steps_hold_every_example_once_an_epoch(new_run):
    run = new_run(accumulate=2, drop_title=0)
    steps = run._steps(0)

    assert {len(step) for step in steps[:-1]} == {2}
    shown = [one for step in steps for batch in step for one in batch]
    assert sorted(one.tokens.ids for one in shown) == sorted(one.tokens.ids for one in whole_examples(run))
    assert steps != run._steps(1)


@pytest.mark.parametrize("processes", [2, 3, 5, 64])
def test_every_process_has_as_many_batches_however_few_there_are(new_run, monkeypatch, processes):
    """One that has fewer would leave the others waiting for ever."""
    run = new_run(accumulate=2)
    monkeypatch.setattr(type(run.accelerator), "num_processes", processes)
    taken = []
    for rank in range(processes):
        monkeypatch.setattr(type(run.accelerator), "process_index", rank)
        taken.append([len(step) for step in run._steps(0)])

    assert taken[0]
    assert all(one == taken[0] and all(one) for one in taken)


def test_what_is_shown_of_an_abstract_does_not_depend_on_the_others(new_run):
    many, few = (new_run(name, records=records_of(n)) for name, n in (("many", 40), ("few", 10)))
    tenth, same = many.train_records[9], few.train_records[9]
    assert [many._shown(tenth, epoch) for epoch in range(8)] == [few._shown(same, epoch) for epoch in range(8)]


def test_validation_sees_titled_abstracts_without_their_title_too(new_run):
    """The same ones whatever the share of dropped titles, or the losses of two epochs could not be compared."""
    seldom, mostly = (new_run(str(share), drop_title=share).validation_examples for share in (0.1, 0.9))
    assert seldom == mostly
    assert len(seldom) == 2 * len(new_run("never", drop_title=0).validation_examples)


def test_an_answer_to_a_question_that_is_not_learned_is_left_out(new_run, tiny):
    """And a record that answers no other question is no example."""
    cancers = [Labelled("1", Abstract(title="T", abstract="x"), {"trial": "yes"}), *records_of(4)]
    run = new_run()
    splits = Splits(TASK, frozenset({"arm"}), cancers, cancers)
    found = Run(run.config, splits, tiny, run.out, print)

    assert [one.id for one in found.train_records] == ["0"]
    assert whole_examples(found)[0].answers == (NOT_ASKED, 0)


def test_balanced_weights_make_a_rare_label_count_as_much(new_run):
    rare = [one for one in records_of(16) if one.id not in {"1", "3", "5", "7", "9", "11"}]

    assert new_run(records=rare).weights is None
    weights = new_run(records=rare, class_weights="balanced").weights

    counts = [sum(one.answers["trial"] == label for one in rare) for label in ("yes", "no")]
    assert (weights[0] * torch.tensor(counts)).tolist() == pytest.approx([5, 5])
