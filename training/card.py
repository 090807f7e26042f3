"""An adapter's model card: metadata for Hugging Face, then for readers what the adapter answers and how well.

``huggingface_hub`` writes the metadata, so that no name or label can break it.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader

from ..schemas import Task
from ..schemas.events import BaseModelRef
from .config import TrainConfig
from .evaluate import Comparison, QuestionMetrics, table

Judges = Mapping[str, QuestionMetrics]
"""``before``, ``after``, and every baseline by its name."""


def card(config: TrainConfig, task: Task, base: BaseModelRef, comparisons: Mapping[str, Comparison]) -> str:
    """The card as Markdown, metadata first."""
    templates = Environment(loader=PackageLoader("abstream.training", "templates"), autoescape=False, trim_blocks=True)
    judged = {question: one.metrics for question, one in comparisons.items()}
    text = templates.get_template("card.md").render(
        config=config,
        task=task,
        base=base,
        tables={question: [list(map(_cell, row)) for row in table(metrics)] for question, metrics in judged.items()},
        n={question: metrics["after"].n for question, metrics in judged.items()},
        measured_on=measured_on(config),
        learned_from=Path(config.data).name,
        notes=config.card_notes.read_text(encoding="utf-8").strip() if config.card_notes else "",
    )
    return f"---\n{_metadata(config, base, judged)}\n---\n\n{text}\n"


def measured_on(config: TrainConfig) -> str:
    """The name of the data on which the figures were measured."""
    source = config.test or config.validation
    return Path(source).name if source else f"a held-out tenth of {Path(config.data).name}"


def _metadata(config: TrainConfig, base: BaseModelRef, judged: Mapping[str, Judges]) -> str:
    results = [one for question, metrics in judged.items() for one in _results(config, question, metrics["after"])]
    return ModelCardData(
        base_model=base.id,
        eval_results=results or None,
        language="en",
        library_name="peft",
        metrics=["accuracy", "f1"],
        model_name=config.name,
        pipeline_tag="text-classification",
        tags=["abstream", "biomedical", "lora", f"base_model:adapter:{base.id}"],
    ).to_yaml()


def _results(config: TrainConfig, question: str, metrics: QuestionMetrics) -> Iterator[EvalResult]:
    for kind, name, figure in (("accuracy", None, metrics.accuracy), ("f1", "macro F1", metrics.macro_f1)):
        yield EvalResult(
            task_type="text-classification",
            task_name=question,
            dataset_type="text",  # the data set is not on the hub
            dataset_name=measured_on(config),
            dataset_config=question,  # distinguishes the results of one data set
            metric_type=kind,
            metric_name=name,
            metric_value=round(figure.value, 4),
        )


def _cell(content: str) -> str:
    """The content of a cell of a Markdown table, with its bars escaped."""
    return content.replace("|", "\\|")
