"""What the training tests share: small labelled data, a base of a few thousand weights, and short runs."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from abstream.consumer.engine.weights import BaseFolder, locate
from abstream.schemas import Abstract, Condition, Question, Task
from abstream.training.config import TrainConfig
from abstream.training.data import Labelled
from abstream.training.objective import Example
from abstream.training.recipe import Run, Splits

from ..tiny import tiny_phi3

Rows = list[dict[str, Any]]

# One thread: the operations are so small that several threads would mostly wait for each other.
ONE_CPU: dict[str, Any] = {"device": "cpu", "threads": 1, "precision": "float32"}

TASK = Task(
    name="design",
    questions=(
        Question(name="trial", text="Is it a trial?", labels=("yes", "no")),
        Question(
            name="arm",
            text="Which arm?",
            labels=("drug", "surgery", "diet"),
            asked_if=Condition(question="trial", label="yes"),
        ),
    ),
)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, Rows], str]:
    """Writes rows as lines of JSON, and returns the path."""

    def write(name: str, rows: Rows) -> str:
        path = tmp_path / name
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(scope="session")
def tiny(phi3_nano: Path, tmp_path_factory: pytest.TempPathFactory) -> BaseFolder:
    """A base that is small enough to be trained in a second."""
    return locate(str(tiny_phi3(tmp_path_factory.mktemp("base") / "phi3-tiny", phi3_nano)))


def records_of(n: int, task: Task = TASK) -> list[Labelled]:
    """Records of different lengths with all kinds of answers, each of which is named in the text."""
    trial, arm = task.questions
    found = []
    for number in range(n):
        answers = {trial.name: trial.labels[number % 2]}
        if number % 4 == 0:
            answers[arm.name] = arm.labels[number % 3]
        text = f"Study {number} of {' '.join(answers.values())}." + " It went on." * (number % 5)
        found.append(Labelled(str(number), Abstract(title=f"Title {number}", abstract=text), answers))
    return found


@pytest.fixture
def new_run(tiny: BaseFolder, tmp_path: Path) -> Callable[..., Run]:
    """Creates runs over 16 records in two epochs; keywords are settings of ``TrainConfig``."""

    def new(
        out: str = "run",
        show: Callable[[float], None] = lambda _: None,
        records: list[Labelled] | None = None,
        **knobs: Any,
    ) -> Run:
        records = records_of(16) if records is None else records
        folder = tmp_path / out
        folder.mkdir(exist_ok=True)
        usual = {**ONE_CPU, "rank": 2, "epochs": 2, "batch_tokens": 200, "checkpoint_steps": 1, "dropout": 0.1}
        config = TrainConfig(data="unused", **(usual | knobs))
        splits = Splits(TASK, frozenset({"trial", "arm"}), records, records_of(6))
        return Run(config, splits, tiny, folder, show)

    return new


def whole_examples(run: Run) -> list[Example]:
    """The examples that the run trains on, with every title and the whole text."""
    return [run._example(one, one.abstract) for one in run.train_records]
