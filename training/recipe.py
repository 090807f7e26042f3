"""The fine-tuning run, top to bottom: labelled abstracts in, the best LoRA weights out.

Only the LoRA weights learn, from the loss at the slots (``objective``). The tokens and the forward pass are those of
serving. A run that was killed resumes from its last checkpoint with the same result, on a CPU bit for bit.
"""

import math
import random
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any, TypeVar

import structlog
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import Phi3ForCausalLM

from ..consumer.engine.forward import SlotClassifier, pack
from ..consumer.engine.packing import pack_by
from ..consumer.engine.products import keep_more_products
from ..consumer.engine.shape import read_shape
from ..consumer.engine.tokens import PromptEncoder
from ..consumer.engine.weights import BaseFolder, read_base, untie
from ..schemas import Abstract, AbstreamError, ModelUnusable, Prompt, Task
from .config import TrainConfig
from .data import Labelled, class_weights, digest
from .objective import NOT_ASKED, Example, answers_of, batches, calibrated_loss, example, slot_loss, taught
from .sharding import load_optimizer, local, sharded_like, whole, whole_optimizer
from .teacher import Answered, Teacher
from .views import judged, shown

CHECKPOINT = "checkpoint.pt"
POOL = 256  # examples sorted by length together
EMBEDDINGS_START = 0.125  # times PEFT's own start, with which each step moves an embedding of phi3-nano by 5 %

T = TypeVar("T")

log = structlog.get_logger()


class TrainingDiverged(AbstreamError):
    """The loss is not finite: lower the learning rate."""


@dataclass
class Progress:
    """How far the run is: what a checkpoint holds beside weights and optimizer."""

    epoch: int = 0
    step: int = 0  # within the epoch
    best_loss: float = math.inf
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Splits:
    """Training and validation data; ``questions`` are those that have at least two labels."""

    task: Task
    questions: frozenset[str]
    train: Sequence[Labelled]
    validation: Sequence[Labelled]


class Run:
    """One fine-tuning run. ``train()`` leaves the best LoRA weights in ``model``."""

    def __init__(
        self, config: TrainConfig, splits: Splits, base: BaseFolder, out: Path, show: Callable[[float], None]
    ) -> None:
        """Load the base and add LoRA matrices. ``show`` is called with the share of the run that is done.

        Raises:
            ModelUnusable: the base cannot be loaded, or has none of the target modules.
        """
        keep_more_products()
        if config.threads:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.config, self.task, self.out, self.show = config, splits.task, out, show
        # accelerate fixes its mixed precision for the whole process; ``_logits`` casts instead.
        self.accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")
        self.device, self.dtype = self.accelerator.device, _dtype(config)
        # The base is frozen and needs no float32 copy. The LoRA weights are float32 in any case.
        phi3 = read_base(base.path, self.dtype, in_4_bits=config.qlora)
        if not config.qlora:
            nn.Module.to(phi3, self.device)
        limit = min(config.max_prompt_tokens, read_shape(base.path).max_tokens)  # as serving cuts
        self.encoder = encoder = PromptEncoder(base.path, Prompt(splits.task), limit)
        phi3.name_or_path = base.ref.id  # PEFT saves it: the model's name, not its path on this machine
        untie(phi3)
        self.model = _with_lora(phi3, config, base)
        _shrink_embeddings(phi3)
        classifier = SlotClassifier(phi3, encoder)  # PEFT has added its layers to phi3 in place
        learning = [weight for weight in classifier.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(learning, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
        self.classifier, self.optimizer = self.accelerator.prepare(classifier, optimizer)
        self.label_tokens = torch.tensor(sorted({label for slot in encoder.slots for label in slot.labels}))
        self.train_records = _asked(splits.train, splits)
        self.validation_examples = [
            self._example(one, view)
            for one in _asked(splits.validation, splits)
            for view in judged(one.abstract, config)
        ]
        self.weights = _label_weights(config, splits, self.device)
        self.progress = Progress()
        self.origin = {
            "config": config.model_dump(mode="json"),
            "base": base.ref.revision,
            "data": [digest(splits.train), digest(splits.validation)],
            "processes": self.accelerator.num_processes,
            "precision": str(self.dtype),
        }
        self.best: dict[str, Tensor] = {}
        self.teacher: Teacher | None = None
        torch.manual_seed(config.seed + self.accelerator.process_index)  # for dropout, which differs by process

    def train(self) -> Progress:
        """Run to the last epoch, or until the validation loss has not fallen for ``patience`` epochs."""
        if self.config.teacher_weight:
            self.teacher = self._base_as_teacher()  # before anything is learned or loaded from a checkpoint
        self._resume()
        while self.progress.epoch < self.config.epochs and not self._is_stale():
            self._train_epoch()
            self._end_epoch()
        self._load_lora(self.best)
        return self.progress

    def save(self, folder: Path) -> None:
        """Write the best LoRA weights in PEFT's format, from one process, after ``train()``."""
        state = self.model.state_dict()
        for name in state:
            if (plain := name.replace(f".{self.model.active_adapter}", "")) in self.best:
                state[name] = self.best[plain]
        self.model.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)  # see ``_lora_parts``

    def step(self, step: list[list[Example]], done: float) -> float:
        """One optimizer step over this process's batches; returns the mean loss over all processes.

        Every batch has the same weight, however many examples it holds.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * _schedule(done, self.config.warmup)
        total = torch.zeros((), device=self.device)
        for position, batch in enumerate(step):
            is_last = position == len(step) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.classifier):
                logits = self._logits(self.classifier, batch)
                said = taught(batch, self.teacher.shares, self.device) if self.teacher else None
                loss = slot_loss(logits, answers_of(batch, self.device), self.weights, said) / len(step)
                self.accelerator.backward(loss)
            total += loss.detach()
        self._spare_label_tokens()
        self.accelerator.clip_grad_norm_(self.classifier.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(self.accelerator.reduce(total, "mean"))

    def _train_epoch(self) -> None:
        steps = self._steps(self.progress.epoch)
        self.classifier.train()
        for number in range(self.progress.step, len(steps)):
            epochs_done = self.progress.epoch + number / len(steps)
            loss = self.step(steps[number], epochs_done / self.config.epochs)
            self._must_be_finite(loss)
            self.progress.step = number + 1
            self.progress.history.append({"epoch": epochs_done, "loss": loss})
            if self.accelerator.is_main_process:
                self.show((epochs_done + 1 / len(steps)) / self.config.epochs)
            if self.progress.step % self.config.checkpoint_steps == 0:
                self._save()

    def _steps(self, epoch: int) -> list[list[list[Example]]]:
        """This process's batches of each step of an epoch. The order depends only on the seed and the epoch."""
        shuffled = random.Random(f"{self.config.seed} {epoch}")
        records = shuffled.sample(self.train_records, len(self.train_records))
        examples = [self._shown(one, epoch) for one in records]
        pools = (examples[start : start + POOL] for start in range(0, len(examples), POOL))
        packed = [batch for pool in pools for batch in batches(pool, self.config.batch_tokens)]
        shuffled.shuffle(packed)
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        packed = self._filled_up(packed)
        size = processes * self.config.accumulate
        return [packed[start : start + size][rank::processes] for start in range(0, len(packed), size)]

    def _filled_up(self, packed: list[T]) -> list[T]:
        """Batches repeated from the first, so that every process gets the same number."""
        return packed + list(islice(cycle(packed), -len(packed) % self.accelerator.num_processes))

    def _shown(self, one: Labelled, epoch: int) -> Example:
        """The view of a record in an epoch: it depends only on seed, epoch and id, so a resumed run sees the same."""
        draws = random.Random(f"{self.config.seed} {epoch} {one.id}")
        view = self._example(one, shown(one.abstract, self.config, draws))
        return replace(view, taught=self.teacher.said[one.id]) if self.teacher else view

    def _example(self, one: Labelled, view: Abstract) -> Example:
        return example(self.encoder, self.task, view, one.answers)

    def _spare_label_tokens(self) -> None:
        """Drop the gradient of the label tokens' embeddings.

        If a base ties its embeddings, plain PEFT merges into both at once: changed rows of the label tokens would
        change the answers.
        """
        for name, weight in self.classifier.named_parameters():
            if "lora_embedding_A" in name and weight.grad is not None:  # shape (rank, vocabulary), zero at the start
                local(weight.grad).index_fill_(1, self.label_tokens.to(weight.device), 0)

    @torch.no_grad()
    def _base_as_teacher(self) -> Teacher:
        """The base's answers to the whole training abstracts; each process computes a part of them."""
        classifier = self.accelerator.unwrap_model(self.classifier).eval()
        read = [(one.id, self._example(one, one.abstract)) for one in self.train_records]
        packed = self._filled_up(list(pack_by(read, lambda one: one[1].tokens.tail_length, self.config.batch_tokens)))
        answered: list[Answered] = []
        for batch in packed[self.accelerator.process_index :: self.accelerator.num_processes]:
            logits = self._logits(classifier, [example for _, example in batch])
            said = zip(*(map(tuple, rows.float().softmax(-1).tolist()) for rows in logits), strict=True)
            answered += [Answered(name, one.answers, rows) for (name, one), rows in zip(batch, said, strict=True)]
        teacher = Teacher.of(gather_object(answered), self.config.teacher_weight)
        log.info("base_teaches", shares=[round(share, 2) for share in teacher.shares])
        return teacher

    def _logits(self, classifier: nn.Module, batch: list[Example]) -> list[Tensor]:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            logits: list[Tensor] = classifier(*pack([one.tokens for one in batch], self.device))
        return logits

    def _end_epoch(self) -> None:
        loss = self._validation_loss()
        self._must_be_finite(loss)
        self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
        self.progress.history.append({"epoch": self.progress.epoch, "validation_loss": loss})
        if loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = loss, self.progress.epoch
            self.best = {name: tensor.detach().clone().cpu() for name, tensor in self._lora_state().items()}
        self._save()
        log.info("epoch_ended", epoch=self.progress.epoch, validation_loss=round(loss, 4))

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """The mean loss after calibration; the main process's value, since all must agree on when to stop.

        Without calibration the loss rises with the model's confidence, even while more answers become right.
        """
        classifier = self.accelerator.unwrap_model(self.classifier).eval()
        found: list[tuple[list[Tensor], Tensor]] = [
            (self._logits(classifier, batch), answers_of(batch, self.device))
            for batch in batches(self.validation_examples, self.config.batch_tokens)
        ]
        total, asked = 0.0, 0
        for question in range(len(self.task.questions)):
            logits = torch.cat([rows[question] for rows, _ in found])
            wanted = torch.cat([answers[:, question] for _, answers in found])
            if known := int((wanted != NOT_ASKED).sum()):
                total += known * calibrated_loss(logits[wanted != NOT_ASKED], wanted[wanted != NOT_ASKED])
                asked += known
        return float(broadcast(torch.tensor(total / max(asked, 1), dtype=torch.float64, device=self.device)))

    def _must_be_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            at = f"in epoch {self.progress.epoch + 1}, step {self.progress.step + 1}"
            raise TrainingDiverged(f"the loss is {loss} {at}: lower the learning rate, {self.config.learning_rate:g}")

    def _is_stale(self) -> bool:
        return self.progress.epoch - self.progress.best_epoch >= self.config.patience

    def _lora_state(self) -> dict[str, Tensor]:
        return whole(self._lora_parts())

    def _lora_parts(self) -> dict[str, Tensor]:
        # Without the last argument, PEFT asks the hub whether the base's vocabulary was resized.
        state: dict[str, Tensor] = get_peft_model_state_dict(self.model, save_embedding_layers=False)
        return state

    def _load_lora(self, state: dict[str, Tensor]) -> None:
        set_peft_model_state_dict(self.model, sharded_like(state, self._lora_parts()))

    def _save(self) -> None:
        """Write a checkpoint beside the last one and rename it, so that a kill leaves one of them whole."""
        randomness = gather_object([_random_state(self.device)])
        lora, optimizer = self._lora_state(), whole_optimizer(self.optimizer)
        if self.accelerator.is_main_process:
            state = {
                "origin": self.origin,
                "progress": vars(self.progress),
                "lora": lora,
                "best": self.best,
                "optimizer": optimizer,
                "random": randomness,
            }
            unfinished = self.out / f"{CHECKPOINT}.part"
            torch.save(state, unfinished)
            unfinished.replace(self.out / CHECKPOINT)
        self.accelerator.wait_for_everyone()

    def _resume(self) -> None:
        path = self.out / CHECKPOINT
        if not path.exists():
            return
        state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        if differing := [what for what, mine in self.origin.items() if state.get("origin", {}).get(what) != mine]:
            log.warning("checkpoint_ignored", reason=f"it is of another run: {', '.join(differing)} differ")
            return
        self.progress = Progress(**state["progress"])
        self.best = state["best"]
        self._load_lora(state["lora"])
        load_optimizer(self.optimizer, state["optimizer"])
        _set_random_state(state["random"][self.accelerator.process_index], self.device)
        log.info("run_resumed", epoch=self.progress.epoch, step=self.progress.step)


def _asked(records: Sequence[Labelled], splits: Splits) -> list[Labelled]:
    """The records that answer a learned question, with no other answers."""
    learned = [{name: label for name, label in one.answers.items() if name in splits.questions} for one in records]
    return [replace(one, answers=answers) for one, answers in zip(records, learned, strict=True) if answers]


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of the random generators that dropout uses."""
    state = {"cpu": torch.get_rng_state()}
    return state | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _label_weights(config: TrainConfig, splits: Splits, device: torch.device) -> list[Tensor] | None:
    if config.class_weights == "none":
        return None
    return [torch.tensor(class_weights(splits.train, question), device=device) for question in splits.task.questions]


def _schedule(done: float, warmup: float) -> float:
    """Share of the peak learning rate: linear warm-up, then cosine decay."""
    if done < warmup:
        return (done + 1e-3) / (warmup + 1e-3)
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _with_lora(phi3: Phi3ForCausalLM, config: TrainConfig, base: BaseFolder) -> PeftModel:
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target_modules),
        base_model_name_or_path=base.ref.id,
        revision=base.ref.revision,
    )
    try:
        return get_peft_model(phi3, lora)
    except ValueError as error:  # a target module is no layer of this base
        raise ModelUnusable(f"{base.ref.id} has no place for these LoRA matrices: {error}") from error


def _shrink_embeddings(phi3: Phi3ForCausalLM) -> None:
    """Scale down the initial LoRA matrices of the embeddings, if there are any."""
    for name, weight in phi3.named_parameters():
        if "lora_embedding_B" in name:
            weight.data *= EMBEDDINGS_START


def _dtype(config: TrainConfig) -> torch.dtype:
    if config.precision != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.precision]
    on_cuda = config.device != "cpu" and torch.cuda.is_available()
    return torch.bfloat16 if on_cuda or torch.cpu._is_avx512_bf16_supported() else torch.float32
