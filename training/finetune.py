"""From labelled abstracts to a measured, calibrated adapter: load, check, train, measure, package."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from ..consumer.engine import Engine
from ..consumer.engine.config import EngineConfig
from ..consumer.engine.phi3 import Phi3Engine
from ..consumer.engine.weights import BaseFolder, locate
from ..schemas import ONCOLOGY, Task, VerifiedAdapter
from .baselines import baselines
from .calibrate import review_threshold, temperature
from .config import TrainConfig
from .data import DataInvalid, Labelled, digest, learnable, load, split, unseen
from .evaluate import Comparison, answers, logits_of
from .expected import expected
from .package import Calibrated, package
from .recipe import CHECKPOINT, Progress, Run, Splits

VALIDATION_SHARE = 0.1

log = structlog.get_logger()


@dataclass(frozen=True)
class Outcome:
    """A finished run: the adapter, its figures, and what the report shows."""

    config: TrainConfig
    adapter: VerifiedAdapter
    comparisons: dict[str, Comparison]
    test: Sequence[Labelled]
    progress: Progress


def finetune(
    config: TrainConfig, out: Path, show: Callable[[float], None], base_folder: str | None = None
) -> Outcome | None:
    """Train an adapter and write it to ``out``/adapter. Only the main process writes; the others return None.

    Args:
        config: saved in ``out``, so that the run can be repeated.
        out: folder of the run.
        show: called with the share of the run that is done.
        base_folder: where the base is on this machine, if ``config.model`` is only its name.

    Raises:
        DataInvalid: the data contradicts itself or the task. Nothing was trained.
        TrainingDiverged: the loss is not finite.
        ModelUnusable, TaskInvalid, Unavailable: the base or the task cannot be used.
    """
    task = Task.from_file(config.task) if config.task else ONCOLOGY
    splits, test = _splits(config, task)
    base = locate(base_folder or config.model, config.model_revision)
    out.mkdir(parents=True, exist_ok=True)
    run = Run(config, splits, base, out, show)
    if run.accelerator.is_main_process:
        (out / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        log.info("training", records=len(splits.train), questions=sorted(splits.questions), base=base.ref.id)
    progress = run.train()
    if not run.accelerator.is_main_process:
        return None
    run.save(out / "adapter")
    outcome = _finish(config, base, splits, test, out / "adapter", progress)
    (out / CHECKPOINT).unlink(missing_ok=True)
    (out / "metrics.json").write_text(json.dumps(_metrics(outcome), indent=2) + "\n")
    return outcome


def _splits(config: TrainConfig, task: Task) -> tuple[Splits, list[Labelled]]:
    """The training and validation data, which share no text with each other or with the test data, and that data."""
    records = load(config.data, task)
    if config.validation:
        train, validation = records, load(config.validation, task)
    else:
        train, validation = split(records, VALIDATION_SHARE, config.seed)
    test = load(config.test, task) if config.test else validation
    kept = unseen(train, [*validation, *test])
    if left_out := len(train) - len(kept):
        log.warning("records_left_out", records=left_out, reason="their texts are in the validation or test data")
    questions = learnable(kept, task, config.data)
    drawn = f"the tenth of {config.data} that is held out for validation (--validation gives another)"
    if not questions & learnable(validation, task, config.validation or drawn):
        raise DataInvalid(f"{config.validation or drawn}: answers no question that {config.data} teaches")
    return Splits(task, questions, kept, validation), test


def _finish(
    config: TrainConfig, base: BaseFolder, splits: Splits, test: list[Labelled], folder: Path, progress: Progress
) -> Outcome:
    """Calibrate on the validation data, measure with the serving engine, and package."""
    task, data_digest = splits.task, digest(splits.train)
    # In float32, so that the golden probes hold on every worker, whatever its dtype.
    engine_config = EngineConfig(
        model=str(base.path), device=config.device, dtype="float32", max_prompt_tokens=config.max_prompt_tokens
    )
    draft = package(folder, config, task, base, data_digest, Calibrated({}, {}), None, None, {})
    adapted = Phi3Engine(engine_config, adapter=draft)
    calibrated = _calibrate(config, splits, adapted)
    bare = Phi3Engine(engine_config, task=task)
    comparisons = compare(splits.train, test, bare, adapted, calibrated.temperatures)
    adapter = package(folder, config, task, base, data_digest, calibrated, adapted, bare, comparisons)
    return Outcome(config, adapter, comparisons, test, progress)


def _calibrate(config: TrainConfig, splits: Splits, adapted: Engine) -> Calibrated:
    """Temperatures and the review threshold of the learned questions.

    A question with a single label in the validation data is left out: its temperature would make every answer certain.
    """
    logits = logits_of(adapted, splits.validation)
    temperatures: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    for position, question in enumerate(splits.task.questions):
        given = answers(question, position, splits.validation, logits)
        if question.name in splits.questions and len(set(given.truth.tolist())) > 1:
            temperatures[question.name] = temperature(given)
    first = splits.task.questions[0]
    if first.name in temperatures:
        given = answers(first, 0, splits.validation, logits, temperatures[first.name])
        thresholds[first.name] = review_threshold(given, config.review_recall)
    model = replace(adapted.model, calibration=temperatures)
    lengths = [len(adapted.encode(one.abstract).ids) for one in splits.validation]
    return Calibrated(temperatures, thresholds, expected(model, logits, lengths))


def compare(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    bare: Engine,
    adapted: Engine,
    temperatures: Mapping[str, float],
) -> dict[str, Comparison]:
    """Measure the bare base, the adapter and the baselines, for each question that ``test`` has labels for.

    The baselines learn from ``train``.
    """
    before = logits_of(bare, test)
    after = before if adapted is bare else logits_of(adapted, test)
    found: dict[str, Comparison] = {}
    for position, question in enumerate(adapted.model.task.questions):
        zero_shot = answers(question, position, test, before)
        if len(zero_shot.truth):
            tuned = answers(question, position, test, after, temperatures.get(question.name, 1.0))
            found[question.name] = Comparison(zero_shot, tuned, baselines(question, train, test))
    return found


def _metrics(outcome: Outcome) -> dict[str, object]:
    return {
        question: {judge: figures.as_json() for judge, figures in one.metrics.items()}
        for question, one in outcome.comparisons.items()
    }
