"""``abstream chaos``: each row is played with a server and workers of its own, then everything is counted."""

import asyncio
import json
import platform
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..bench.machine import machine
from ..embedded import find_server
from . import (
    backlog_faults,
    cluster_faults,
    input_faults,
    network_faults,
    redis_faults,
    replica_faults,
    worker_faults,
)
from .ledger import Audit, audit
from .scene import Row, Scale, Scene, scene

ROWS: tuple[Row, ...] = (
    *worker_faults.ROWS, *input_faults.ROWS, *redis_faults.ROWS, *network_faults.ROWS, *replica_faults.ROWS,
    *cluster_faults.ROWS, *backlog_faults.ROWS,
)  # fmt: skip
NAMES = tuple(row.name for row in ROWS)
_COUNTS = ("sent", "accepted", "answered", "refused", "lost", "duplicated", "seconds")


@dataclass(frozen=True)
class Played:
    """A row of the table."""

    name: str
    fault: str
    sent: int  # submissions, some of them more than once
    audit: Audit
    seconds: float
    also: str
    wrong: tuple[str, ...]  # what must not be
    beyond: tuple[str, ...]  # targets of time and memory that were missed

    @property
    def passed(self) -> bool:
        return not self.wrong and not self.beyond

    @property
    def verdict(self) -> str:
        return "[green]passed[/]" if self.passed else f"[red]{'; '.join((*self.wrong, *self.beyond))}[/]"


def run(names: Sequence[str], scale: Scale, out: Path) -> bool:
    """Play the named rows, or all; print a table and one line of JSON; return whether all passed."""
    chosen = [row for row in ROWS if row.name in (names or NAMES)]
    played = asyncio.run(_play_all(chosen, scale, out))
    Console(width=max(120, Console().width)).print(_table(played))
    print(json.dumps({"rows": [asdict(row) for row in played], **asdict(scale), **_machine()}))
    return all(row.passed for row in played)


async def _play_all(rows: Sequence[Row], scale: Scale, out: Path) -> list[Played]:
    # Ended by SIGTERM as by Ctrl-C: through every `finally`, so that no process is left behind.
    this = asyncio.current_task()
    assert this
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    say = Console(stderr=True, highlight=False).print
    played = []
    for row in rows:
        say(f"[bold]{row.name}[/] …")
        played.append(one := await play(row, scale, out / row.name))
        say(f"[bold]{row.name}[/] {one.verdict} in {one.seconds} s; {one.also}")
    return played


async def play(row: Row, scale: Scale, folder: Path) -> Played:
    """Play one row: perform its fault, let the workers leave, and count. Their logs are kept in ``folder``."""
    async with scene(row, scale, folder) as played:
        begun = time.monotonic()
        also = await row.perform(played)
        seconds = round(time.monotonic() - begun, 1)
        await _let_go(played)
        counted = audit(played.ledger, await played.found())
    return Played(
        name=row.name,
        fault=played.fault,
        sent=played.load.sent,
        audit=counted,
        seconds=seconds,
        also=also,
        wrong=(*played.missed, *counted.faults()),
        beyond=tuple(played.beyond),
    )


async def _let_go(played: Scene) -> None:
    """Ask the workers to leave, and expect each to end with exit code 0."""
    for code in await played.workers.stop():
        played.expect(code == 0, f"a worker left with {code}")


def _table(played: Sequence[Played]) -> Table:
    shown = Table(title="What went wrong, and what came of it")
    for name in ("fault", *_COUNTS, "also", "verdict"):
        shown.add_column(name, justify="right" if name in _COUNTS else "left")
    for row in played:
        one = row.audit
        counts = map(str, (row.sent, one.accepted, one.answered, one.refused, one.lost, one.duplicated, row.seconds))
        shown.add_row(row.fault, *counts, row.also, row.verdict)
    return shown


def _machine() -> dict[str, str]:
    """Where the figures are from."""
    return {
        "machine": machine(),
        "python": platform.python_version(),
        "redis": subprocess.check_output([find_server(), "--version"], text=True).split()[2],
        "redis_client": metadata.version("redis"),
    }
