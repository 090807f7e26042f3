"""What a benchmark ran on."""

import os
import platform
from pathlib import Path


def machine() -> str:
    """Processor, cores, and how many of them may be used."""
    cores = os.cpu_count()
    used = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores  # macOS has no such call
    return f"{processor()}, {cores} cores, {used} used"


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
