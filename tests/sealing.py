"""Adapters sealed as a fine-tuning run seals them, with their own engine's answers to the golden probes."""

from collections.abc import Callable
from pathlib import Path

from abstream import Abstract
from abstream.consumer.engine import Engine
from abstream.consumer.engine.scoring import softmax
from abstream.schemas import ONCOLOGY, AdapterManifest, Prompt, VerifiedAdapter
from abstream.schemas.artifacts import MANIFEST, Probe, seal
from abstream.schemas.events import BaseModelRef

PROBES = (
    Abstract(title="Giant lipoma of the shoulder", abstract="The mass was excised; histology showed mature fat."),
    Abstract(title=None, abstract="Gleason grade 8 on biopsy; PSA fell after androgen deprivation."),
)


def seal_for(
    load_engine: Callable[[VerifiedAdapter], Engine], folder: Path, base: BaseModelRef, **manifest: object
) -> VerifiedAdapter:
    """Seal what PEFT would have written into ``folder``; ``manifest`` overrides fields of the usual manifest."""
    usual = {"name": "oncology", "version": "1", "base_model": base, "task": ONCOLOGY}
    about = {**usual, "prompt_digest": Prompt(ONCOLOGY).digest, **manifest}
    if "probes" not in about and about["base_model"] == base:
        draft = seal(folder, AdapterManifest(**about))
        (folder / MANIFEST).unlink()
        about["probes"] = answered_probes(load_engine(draft))
    return seal(folder, AdapterManifest(**about))


def answered_probes(engine: Engine, bare: Engine | None = None) -> tuple[Probe, ...]:
    """The probes with the answers of ``engine``, and with those of ``bare``, an engine without adapter, if given."""
    others = _answers(bare) if bare else [None] * len(PROBES)
    return tuple(
        Probe(title=abstract.title, abstract=abstract.abstract, probabilities=given, bare=other)
        for abstract, given, other in zip(PROBES, _answers(engine), others, strict=True)
    )


def _answers(engine: Engine) -> list[dict[str, dict[str, float]]]:
    rows = engine.classify([engine.encode(abstract) for abstract in PROBES]).logits
    questions = engine.model.task.questions
    return [
        {
            question.name: dict(zip(question.labels, softmax(logits), strict=True))
            for question, logits in zip(questions, row, strict=True)
        }
        for row in rows
    ]
