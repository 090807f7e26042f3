"""Builds an adapter directory, which plain PEFT loads and abstream can verify: weights, model card, manifest."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..consumer.engine.phi3 import Phi3Engine
from ..consumer.engine.scoring import softmax
from ..consumer.engine.weights import BaseFolder
from ..schemas import Abstract, AdapterManifest, Prompt, Task, VerifiedAdapter
from ..schemas.artifacts import ADAPTER_FILES, MANIFEST, ProbabilitiesByQuestion, Probe, seal
from ..schemas.events import Metrics
from ..schemas.expected import Expected
from .card import card, measured_on
from .config import TrainConfig
from .evaluate import Comparison, flat

CARD = "README.md"

# Golden probes. They are invented, so that they may be shipped with every adapter, whatever it was trained on.
PROBES = (
    Abstract(
        title="Trastuzumab after surgery for breast cancer", abstract="Of 212 women, 19 relapsed within four years."
    ),
    Abstract(title="Giant lipoma of the shoulder", abstract="The mass was excised; histology showed mature fat."),
    Abstract(
        title="Venetoclax in AML unfit for induction", abstract="Remission was seen in 91 % with blasts under 5 %."
    ),
    Abstract(title="TP53 and the age at menopause", abstract="Carriers and others did not differ in 41 200 women."),
    Abstract(title="[Measles in a boarding school].", abstract=""),
    Abstract(title=None, abstract="Gleason grade 8 on biopsy; PSA fell after androgen deprivation."),
)


@dataclass(frozen=True)
class Calibrated:
    """What was determined on the validation data.

    Attributes:
        temperatures: by question.
        thresholds: by question, the confidence below which its answer goes to review.
        expected: the distribution of the answers, with which workers compare live ones.
    """

    temperatures: dict[str, float]
    thresholds: dict[str, float]
    expected: Expected | None = None


def package(
    folder: Path, config: TrainConfig, task: Task, base: BaseFolder, data_digest: str, calibrated: Calibrated,
    engine: Phi3Engine | None, bare: Phi3Engine | None, comparisons: Mapping[str, Comparison],
) -> VerifiedAdapter:  # fmt: skip
    """Write model card and manifest beside the weights, and seal the adapter.

    Args:
        folder: contains what PEFT saved.
        engine: serves the adapter; its answers to the probes are recorded. None for a draft without probes.
        bare: serves the base alone; its answers are recorded beside them.
        comparisons: before, after and the baselines, for each question that was measured.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    _order_targets(folder / ADAPTER_FILES[0])
    (folder / CARD).write_text(card(config, task, base.ref, comparisons), encoding="utf-8")
    manifest = AdapterManifest(
        name=config.name,
        version=config.version,
        base_model=base.ref,
        task=task,
        prompt_digest=Prompt(task).digest,
        calibration=calibrated.temperatures,
        thresholds=calibrated.thresholds,
        expected=calibrated.expected,
        metrics=_metrics(config, comparisons),
        probes=_probes(engine, bare) if engine and bare else (),
        data_digest=data_digest,
    )
    return seal(folder, manifest)


def _order_targets(path: Path) -> None:
    """Sort the names of the layers, which PEFT writes in the order of a set, so that equal runs give equal files."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["target_modules"] = sorted(settings["target_modules"])
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _probes(engine: Phi3Engine, bare: Phi3Engine) -> tuple[Probe, ...]:
    return tuple(
        Probe(
            title=abstract.title,
            abstract=abstract.abstract,
            probabilities=_probabilities(engine, abstract),
            bare=_probabilities(bare, abstract),
        )
        for abstract in PROBES
    )


def _probabilities(engine: Phi3Engine, abstract: Abstract) -> ProbabilitiesByQuestion:
    """The uncalibrated probabilities (temperature 1) of every question, asked or not."""
    [row] = engine.classify([engine.encode(abstract)]).logits
    return {
        question.name: dict(zip(question.labels, softmax(logits), strict=True))
        for question, logits in zip(engine.model.task.questions, row, strict=True)
    }


def _metrics(config: TrainConfig, comparisons: Mapping[str, Comparison]) -> Metrics | None:
    if not comparisons:
        return None
    before, after = ([one.metrics[when] for one in comparisons.values()] for when in ("before", "after"))
    return Metrics(dataset=measured_on(config), n=max(one.n for one in after), before=flat(before), after=flat(after))
