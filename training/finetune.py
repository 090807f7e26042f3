"""From labelled abstracts to a measured, calibrated adapter: load, check, train, measure, package."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from ..consumer.engine import Engine, LabelLogits
from ..consumer.engine.config import EngineConfig
from ..consumer.engine.phi3 import Phi3Engine
from ..consumer.engine.weights import BaseFolder, locate
from ..schemas import ONCOLOGY, Task, VerifiedAdapter
from .baselines import baselines
from .calibrate import review_threshold, temperature
from .config import TrainConfig
from .data import Labelled, digest, learnable, load, split
from .evaluate import Comparison, answers, logits_of
from .package import Calibrated, package
from .recipe import CHECKPOINT, Progress, Run, Splits

VALIDATION_SHARE = 0.1

log = structlog.get_logger()


@dataclass(frozen=True)
class Outcome:
    """A finished run: the adapter, its figures, and all that its report shows."""

    config: TrainConfig
    adapter: VerifiedAdapter
    comparisons: dict[str, Comparison]
    test: Sequence[Labelled]
    progress: Progress


def finetune(config: TrainConfig, out: Path, show: Callable[[float], None]) -> Outcome | None:
    """Train an adapter into ``out``/adapter. None in every process but the main one.

    Raises:
        DataInvalid: the data contradicts itself or the task; nothing was trained.
        ModelUnusable, TaskInvalid, Unavailable: there is nothing to train on or for.
    """
    task = Task.from_file(config.task) if config.task else ONCOLOGY
    splits, test = _splits(config, task)
    base = locate(config.model, config.model_revision)
    out.mkdir(parents=True, exist_ok=True)
    (out / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
    log.info("training", records=len(splits.train), questions=sorted(splits.questions), base=base.ref.id)
    run = Run(config, splits, base, out, show)
    progress = run.train()
    if not run.accelerator.is_main_process:
        return None
    folder = out / "adapter"
    run.model.save_pretrained(str(folder))
    outcome = _finish(config, task, base, splits, test, folder, progress)
    (out / CHECKPOINT).unlink(missing_ok=True)
    (out / "metrics.json").write_text(json.dumps(_metrics(outcome), indent=2) + "\n")
    return outcome


def _splits(config: TrainConfig, task: Task) -> tuple[Splits, list[Labelled]]:
    records = load(config.data, task)
    if config.validation:
        train, validation = records, load(config.validation, task)
    else:
        train, validation = split(records, VALIDATION_SHARE, config.seed)
    questions = learnable(train, task, config.data)
    learnable(validation, task, config.validation or f"a tenth of {config.data}")
    test = load(config.test, task) if config.test else validation
    return Splits(task, questions, train, validation), test


def _finish(
    config: TrainConfig,
    task: Task,
    base: BaseFolder,
    splits: Splits,
    test: list[Labelled],
    folder: Path,
    progress: Progress,
) -> Outcome:
    """Measure through serving's own path, calibrate on the validation data, and seal."""
    engine_config = EngineConfig(model=str(base.path), device=config.device, max_prompt_tokens=config.max_prompt_tokens)
    draft = package(folder, config, task, base, digest(splits.train), Calibrated({}, {}), None, ())
    adapted = Phi3Engine(engine_config, adapter=draft)
    calibrated = _calibrate(config, task, splits.validation, logits_of(adapted, splits.validation))
    comparisons = compare(splits.train, test, Phi3Engine(engine_config, task=task), adapted, calibrated.temperatures)
    metrics = [(one.metrics["before"], one.metrics["after"]) for one in comparisons.values()]
    adapter = package(folder, config, task, base, digest(splits.train), calibrated, adapted, metrics)
    return Outcome(config, adapter, comparisons, test, progress)


def _calibrate(
    config: TrainConfig, task: Task, validation: Sequence[Labelled], logits: Sequence[LabelLogits]
) -> Calibrated:
    temperatures: dict[str, float] = {}
    thresholds: dict[str, float] = {}
    for position, question in enumerate(task.questions):
        given = answers(question, position, validation, logits)
        if len(given.truth):
            temperatures[question.name] = temperature(given)
    first = task.questions[0]
    if first.name in temperatures:
        given = answers(first, 0, validation, logits, temperatures[first.name])
        thresholds[first.name] = review_threshold(given, config.review_recall)
    return Calibrated(temperatures, thresholds)


def compare(
    train: Sequence[Labelled],
    test: Sequence[Labelled],
    bare: Engine,
    adapted: Engine,
    temperatures: Mapping[str, float],
) -> dict[str, Comparison]:
    """The bare base, the adapter, and what ``train`` teaches the baselines, for what ``test`` has labels of."""
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
