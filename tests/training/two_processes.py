"""Run by ``accelerate launch`` in every process: a run, and the same run killed in its second step and gone on with.

    accelerate launch --multi_gpu --num_processes 2 two_processes.py BASE OUT

Each process has a folder of its own for the whole run, so that one sees who writes, and leaves what it found in
``OUT/process-N.json``.
"""

import json
import sys
from pathlib import Path

from abstream.consumer.engine.weights import locate
from abstream.schemas import Abstract, Question, Task
from abstream.training.config import TrainConfig
from abstream.training.data import Labelled
from abstream.training.recipe import CHECKPOINT, Run, Splits
from accelerate import PartialState

TASK = Task(name="colour", questions=(Question(name="colour", text="Which?", labels=("red", "blue")),))
RECORDS = [
    Labelled(str(n), Abstract(title="T", abstract=f"Paint {n} is {colour}." * (1 + n % 3)), {"colour": colour})
    for n, colour in enumerate(["red", "blue"] * 7)
]
KNOBS = {"device": "cpu", "threads": 1, "precision": "float32", "rank": 2, "dropout": 0.2}
STEPS = {"epochs": 2, "batch_tokens": 60, "accumulate": 2, "checkpoint_steps": 1}


class Killed(Exception):
    pass


def main() -> None:
    base, out = locate(sys.argv[1]), Path(sys.argv[2])
    config = TrainConfig(data="unused", **KNOBS, **STEPS)
    number = PartialState(cpu=True).process_index

    def new(folder: Path) -> Run:
        folder.mkdir(exist_ok=True)
        return Run(config, Splits(TASK, frozenset({"colour"}), RECORDS, RECORDS[:4]), base, folder, lambda _: None)

    whole = new(out / f"whole-{number}")
    whole.train()
    killed = new(out / "killed")
    kill_in_the_second_step(killed)
    again = new(out / "killed")
    assert (out / "killed" / CHECKPOINT).exists()
    again.train()
    found = {
        "weights": weights(whole),
        "resumed": weights(again),
        "history": whole.progress.history == again.progress.history,
        "steps": len(whole._steps(0)),
        "files": [path.name for path in whole.out.iterdir()],
    }
    (out / f"process-{number}.json").write_text(json.dumps(found))


def kill_in_the_second_step(run: Run) -> None:
    step, taken = run.step, iter([False, True])

    def step_or_die(*given):
        if next(taken):
            raise Killed
        return step(*given)

    run.step = step_or_die
    try:
        run.train()
    except Killed:
        return
    raise AssertionError("it lived on")


def weights(run: Run) -> list[list[float]]:
    return [tensor.flatten().tolist() for _, tensor in sorted(run._lora_state().items())]


if __name__ == "__main__":
    main()
