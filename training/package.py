"""An adapter directory that plain PEFT loads and abstream trusts: weights, model card, manifest."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader

from ..consumer.engine.phi3 import Phi3Engine
from ..consumer.engine.scoring import softmax
from ..consumer.engine.weights import BaseFolder
from ..schemas import Abstract, AdapterManifest, Prompt, Task, VerifiedAdapter
from ..schemas.artifacts import MANIFEST, Probe, seal
from ..schemas.events import Metrics
from .config import TrainConfig
from .evaluate import QuestionMetrics

CARD = "README.md"

# Golden probes: invented, so that they may travel with every adapter, whatever it was trained on.
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
    """Question -> temperature, and question -> the confidence under which its answer goes to review."""

    temperatures: dict[str, float]
    thresholds: dict[str, float]


def package(
    folder: Path, config: TrainConfig, task: Task, base: BaseFolder, data_digest: str, calibrated: Calibrated,
    engine: Phi3Engine | None, metrics: Sequence[tuple[QuestionMetrics, QuestionMetrics]],
) -> VerifiedAdapter:  # fmt: skip
    """Write model card and manifest beside the weights, and seal.

    Args:
        folder: holds what PEFT saved.
        engine: serves the adapter; its answers to the probes are written down. None for a draft without probes.
        metrics: before and after, of each question that was measured.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    (folder / CARD).write_text(_card(config, task, base, metrics), encoding="utf-8")
    manifest = AdapterManifest(
        name=config.name,
        version=config.version,
        base_model=base.ref,
        task=task,
        prompt_digest=Prompt(task).digest,
        calibration=calibrated.temperatures,
        thresholds=calibrated.thresholds,
        metrics=_metrics(config, metrics),
        probes=_probes(engine) if engine else (),
        data_digest=data_digest,
    )
    return seal(folder, manifest)


def _probes(engine: Phi3Engine) -> tuple[Probe, ...]:
    """The raw probabilities, at temperature 1, of every question, asked or not."""
    questions = engine.model.task.questions
    rows = [engine.classify([engine.encode(abstract)]).logits[0] for abstract in PROBES]
    return tuple(
        Probe(
            title=abstract.title,
            abstract=abstract.abstract,
            probabilities={
                question.name: dict(zip(question.labels, softmax(logits), strict=True))
                for question, logits in zip(questions, row, strict=True)
            },
        )
        for abstract, row in zip(PROBES, rows, strict=True)
    )


def _metrics(config: TrainConfig, metrics: Sequence[tuple[QuestionMetrics, QuestionMetrics]]) -> Metrics | None:
    if not metrics:
        return None

    def named(which: int) -> dict[str, float]:
        return {f"{pair[0].question}.{name}": value for pair in metrics for name, value in pair[which].flat().items()}

    return Metrics(
        dataset=_measured_on(config), n=max(after.n for _, after in metrics), before=named(0), after=named(1)
    )


def _measured_on(config: TrainConfig) -> str:
    source = config.test or config.validation
    return Path(source).name if source else f"a held-out tenth of {Path(config.data).name}"


def _card(
    config: TrainConfig, task: Task, base: BaseFolder, metrics: Sequence[tuple[QuestionMetrics, QuestionMetrics]]
) -> str:
    templates = Environment(loader=PackageLoader("abstream.training", "templates"), autoescape=False, trim_blocks=True)
    return templates.get_template("card.md").render(
        config=config, task=task, base=base.ref, metrics=metrics, measured_on=_measured_on(config)
    )
