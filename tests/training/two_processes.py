"""Run by ``accelerate launch`` in every process: a run, and the same run killed in its second step and gone on with.

    accelerate launch --multi_gpu --num_processes 2 two_processes.py BASE OUT
    accelerate launch --config_file ops/accelerate/fsdp.yaml two_processes.py BASE OUT

Each process has a folder of its own for the whole run, so that one sees who writes, and leaves what it found in
``OUT/process-N.json``.
"""

import json
import os
import sys
from pathlib import Path

from abstream.consumer.engine.weights import locate
from abstream.schemas import Abstract, Condition, Question, Task
from abstream.training.config import TrainConfig
from abstream.training.data import Labelled
from abstream.training.recipe import CHECKPOINT, Run, Splits
from accelerate import DistributedType, PartialState
from accelerate.state import AcceleratorState
from torch.distributed.tensor import DTensor

COLOUR = Question(name="colour", text="Which?", labels=("red", "blue"))
IS_RED = Condition(question="colour", label="red")
SHADE = Question(name="shade", text="Which red?", labels=("dark", "light"), asked_if=IS_RED)
TASK = Task(name="colour", questions=(COLOUR, SHADE))


def answers(number: int, colour: str) -> dict[str, str]:
    return {"colour": colour} | ({"shade": SHADE.labels[number % 4 // 2]} if colour == "red" else {})


RECORDS = [
    Labelled(str(n), Abstract(title="T", abstract=f"Paint {n} is {colour}." * (1 + n % 3)), answers(n, colour))
    for n, colour in enumerate(["red", "blue"] * 7)
]
KNOBS = {"device": "cpu", "threads": 1, "precision": "float32", "rank": 2, "dropout": 0.2}
STEPS = {"epochs": 2, "batch_tokens": 60, "accumulate": 2, "checkpoint_steps": 1}


class Killed(Exception):
    pass


def main() -> None:
    if os.environ.get("ACCELERATE_USE_FSDP"):
        share_out_on_cpus()
    base, out = locate(sys.argv[1]), Path(sys.argv[2])
    config = TrainConfig(data="unused", **KNOBS, **STEPS)
    number = PartialState(cpu=True).process_index

    def new(folder: Path) -> Run:
        folder.mkdir(exist_ok=True)
        return Run(
            config, Splits(TASK, frozenset({"colour", "shade"}), RECORDS, RECORDS[:4]), base, folder, lambda _: None
        )

    whole = new(out / f"whole-{number}")
    whole.train()
    if number == 0:
        whole.save(out / "adapter")
    killed = new(out / "killed")
    kill_in_the_second_step(killed)
    again = new(out / "killed")
    assert (out / "killed" / CHECKPOINT).exists()
    again.train()
    found = {
        "weights": weights(whole),
        "sharded": any(isinstance(weight, DTensor) for weight in whole.classifier.parameters()),
        "label_tokens": max(
            tensor[:, whole.label_tokens].abs().max().item()
            for name, tensor in whole._lora_state().items()
            if "lora_embedding_A" in name
        ),
        "resumed": weights(again),
        "taught": dict(sorted(whole.teacher.said.items())),
        "history": whole.progress.history == again.progress.history,
        "steps": len(whole._steps(0)),
        "files": [path.name for path in whole.out.iterdir()],
    }
    (out / f"process-{number}.json").write_text(json.dumps(found))


def share_out_on_cpus() -> None:
    """Torch can, and accelerate does so on GPUs only."""
    as_it_is = AcceleratorState.__init__

    def made(self, *args, fsdp_plugin=None, **options) -> None:
        as_it_is(self, *args, fsdp_plugin=fsdp_plugin, **options)
        if fsdp_plugin:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = made


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
