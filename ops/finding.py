"""What the doctor says of one thing."""

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "error", "out of reach"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at; ``remedy`` says what to do where the verdict is not ``ok``."""

    what: str
    verdict: Verdict
    found: str
    remedy: str = ""
