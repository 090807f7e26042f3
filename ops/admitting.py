"""``abstream admit``: eight bits are used where it was shown that they cost no accuracy; measured once, remembered.

What was measured holds for one base, one adapter and one prompt: others are served in bfloat16 until they are measured.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import structlog

from ..consumer.engine import Engine
from ..schemas.events import ModelReceipt
from .settings import admissions_file

GATED = ("fp8", "int8")
PLAIN = "bfloat16"
MOST_LOST = 0.003  # of the accuracy of any question

log = structlog.get_logger()


@dataclass(frozen=True)
class Measurement:
    """Accuracy on the same abstracts, by question, in bfloat16 and in eight bits."""

    abstracts: int
    plain: dict[str, float]
    eight: dict[str, float]

    @property
    def lost(self) -> float:
        """The most that any question lost."""
        return max(self.plain[question] - self.eight[question] for question in self.plain)

    @property
    def passed(self) -> bool:
        """Whether that is little enough."""
        return self.lost <= MOST_LOST


def admit(data: str, eight: Engine, plain: Engine) -> Measurement:
    """Measure ``eight`` on labelled data beside ``plain``, the same in bfloat16, and remember it."""
    from ..training.data import load

    records = load(data, plain.model.task)
    found = Measurement(len(records), _accuracy(plain, records), _accuracy(eight, records))
    _remember(admissions_file(), key_of(eight.model.receipt), found)
    return found


def admitted(engine: Engine, plain: Callable[[], Engine]) -> Engine:
    """The engine, if it may be used for its adapter; else ``plain``, the same in bfloat16."""
    receipt = engine.model.receipt
    if receipt.dtype not in GATED:
        return engine
    known = _read(admissions_file()).get(key_of(receipt))
    if known and Measurement(**known).passed:
        return engine
    why = f"accuracy fell by {100 * Measurement(**known).lost:.1f} points" if known else "not measured"
    mend = f"abstream admit --dtype {receipt.dtype} --data LABELLED, with this adapter"
    log.warning("dtype_not_admitted", dtype=receipt.dtype, adapter=receipt.adapter, why=why, mend=mend)
    return plain()


def shown(found: Measurement, *, as_json: bool) -> str:
    """For people, or for programs."""
    if as_json:
        return json.dumps(asdict(found) | {"passed": found.passed})
    lines = [
        f"{name}: {found.plain[name]:.2%} in {PLAIN}, {found.eight[name]:.2%} in eight bits" for name in found.plain
    ]
    said = (
        "workers may use it" if found.passed else f"more than {100 * MOST_LOST:.1f} points lost: workers may not use it"
    )
    return "\n".join([*lines, f"{found.abstracts} abstracts: {said}"])


def key_of(receipt: ModelReceipt) -> str:
    """What a measurement is of."""
    return " ".join((receipt.dtype, receipt.base_revision, receipt.adapter_digest or "bare", receipt.prompt_digest))


def _accuracy(engine: Engine, records: Any) -> dict[str, float]:
    from ..training.evaluate import measured

    return {name: float(one.accuracy.value) for name, one in measured(engine, records).items()}


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _remember(file: Path, key: str, found: Measurement) -> None:
    """Whole or not at all, since workers read it."""
    aside = file.with_name(f"{file.name}.{os.getpid()}")
    file.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(json.dumps(_read(file) | {key: asdict(found)}, indent=1), encoding="utf-8")
    aside.replace(file)
