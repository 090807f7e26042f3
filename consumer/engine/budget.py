"""How many tokens one forward pass takes: on GPUs found by a short probe, and remembered; halved if memory runs out.

More tokens keep a GPU busy. A CPU processes rows in pieces that fit its caches, however many a pass has, so that a
worker's whole batch may be one pass.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch

from . import Tokens
from .lanes import Lanes

T = TypeVar("T")

_SMALLEST, _PROBE_SECONDS = 512, 0.25
_GAIN = 1.03  # a budget twice as large must be faster by this factor to justify its memory and delay
_UNKNOWN = {"cpu": 4_096, "cuda": 16_384}  # budgets where nothing is probed


class Budget:
    """The most tokens of one pass, not counting the prefix. Belongs to the compute thread."""

    def __init__(self, device: torch.device, memory: Path | None = None, key: str = "") -> None:
        """
        Args:
            device: where the passes run.
            memory: the file that remembers the budgets of GPUs by key; None to remember nothing.
            key: names device, model and dtype.
        """
        self._device, self._key = device, key
        self._memory = memory if device.type != "cpu" else None  # CPUs are not probed, so there is nothing to remember
        self._known = _read(self._memory).get(key) if self._memory else None
        self.tokens = self._known or _UNKNOWN.get(device.type, _UNKNOWN["cpu"])

    def probe(self, run: Callable[[int], object], longest: int) -> None:
        """Find the budget of a GPU, unless it is known or there is no file to remember it in.

        Args:
            run: runs a forward pass over the given number of tokens.
            longest: the largest budget to try.
        """
        if not self._memory or self._known:
            return
        best, spent, tokens = 0.0, 0.0, _SMALLEST
        self.tokens = _SMALLEST
        while tokens <= longest and spent < _PROBE_SECONDS:
            rate = _if_memory_lasts(partial(_rate, run, tokens))
            if rate is None or rate < best * _GAIN:
                break
            spent += tokens / rate  # without the warm-ups, of which the first may compile for a minute
            best, self.tokens, tokens = rate, tokens, tokens * 2
        _release()
        self._remember()

    def run(
        self, batch: Sequence[Tokens], compute: Callable[[Sequence[Tokens]], list[T]], lanes: Lanes | None = None
    ) -> list[T]:
        """Apply ``compute`` to all of ``batch``, in as many passes as the budget requires.

        With lanes, several passes run at once. If memory runs out, they run one by one, and the budget is halved
        whenever one still does not fit. A single abstract is tried twice, since others may have had the memory.

        Raises:
            RuntimeError: there is not enough memory for a single abstract.
        """
        if lanes and lanes.count > 1 and len(batch) > 1:
            all_at_once = _if_memory_lasts(partial(lanes.run, lanes.share_out(batch, self.tokens), compute))
            if all_at_once is not None:
                return all_at_once
        done: list[T] = []
        while len(done) < len(batch):
            some = next(passes(batch[len(done) :], self.tokens))
            answers = _if_memory_lasts(partial(compute, some))
            if answers is None:
                _release()
                if len(some) > 1:
                    self._halve(sum(one.tail_length for one in some))
                    continue
                answers = compute(some)
            done += answers
        return done

    def _halve(self, tried: int) -> None:
        self.tokens = max(1, min(self.tokens, tried) // 2)
        self._remember()

    def _remember(self) -> None:
        if self._memory:
            _write(self._memory, self._key, self.tokens)


def passes(batch: Sequence[Tokens], tokens: int) -> Iterator[Sequence[Tokens]]:
    """Split a batch, in order, into passes of at most ``tokens`` tokens; a longer abstract is a pass of its own."""
    start, held = 0, 0
    for number, one in enumerate(batch):
        if number > start and held + one.tail_length > tokens:
            yield batch[start:number]
            start, held = number, 0
        held += one.tail_length
    if start < len(batch):
        yield batch[start:]


def _if_memory_lasts(run: Callable[[], T]) -> T | None:
    """What ``run`` returns; None if memory ran out. The error is gone then, and with it the tensors that it held."""
    try:
        return run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _release() -> None:
    """Give the GPU back what is held in reserve, in pieces that the next pass may have no use for."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def is_out_of_memory(error: Exception) -> bool:
    """Whether the GPU or the machine ran out of memory; for the latter torch has no exception class."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error)


def _rate(run: Callable[[int], object], tokens: int) -> float:
    """Tokens per second; the first pass of a size is a warm-up."""
    run(tokens)
    begun = time.perf_counter()
    run(tokens)
    return tokens / (time.perf_counter() - begun)


def _read(memory: Path) -> dict[str, int]:
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int) and value > 0}


def _write(memory: Path, key: str, tokens: int) -> None:
    """Replace the file atomically, since workers share it. If that fails, the next start probes again."""
    aside = memory.with_name(f"{memory.name}.{os.getpid()}")
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(_read(memory) | {key: tokens}, indent=1), encoding="utf-8")
        aside.replace(memory)
    except OSError:
        with suppress(OSError):
            aside.unlink()
