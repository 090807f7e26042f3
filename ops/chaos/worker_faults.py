"""Faults of workers: they are killed, frozen, stopped, and brought down by what they read."""

import asyncio
import time

from ...schemas import Abstract
from .engine import HANGING_WORD, KILLING_WORD
from .scene import Row, Scene
from .traffic import Submission
from .workers import WorkerProcess

_LEASE_SECONDS = 60  # of the rolling restart: longer than anything else in it


async def killed(scene: Scene) -> str:
    at_work = 0
    async with scene.under_load():
        async for worker in scene.victims():
            worker.kill()
            at_work += await scene.held_by(worker) > 0
        last = time.monotonic()
    tail = scene.watch.last_result_at - last
    return f"{at_work} of them held unanswered abstracts; the last result came {tail:.1f} s after the last kill"


async def frozen(scene: Scene) -> str:
    async with scene.under_load():
        async for worker in scene.victims():
            worker.freeze()
            await asyncio.sleep(1.5 * scene.row.flags["lease-seconds"])
            worker.thaw()
    late = await scene.workers.metric("abstream_commits_lost_total")
    scene.expect_no_exits()
    return f"{late} late answers of the thawed changed nothing"


async def slow(scene: Scene) -> str:
    async with scene.under_load():
        pass
    again = await scene.workers.metric("abstream_redeliveries_total")
    scene.expect(again == 0, f"{again} were taken from a worker that was at work on them")
    return "no abstract was taken from the worker that had it"


async def rolling(scene: Scene) -> str:
    before, slowest_exit = len(scene.workers.exits), 0.0
    async with scene.under_load():
        async for _ in scene.moments():
            for worker in await scene.workers.until_ready(scene.workers.count):
                slowest_exit = max(slowest_exit, await _leave(worker))
                await scene.workers.until_ready(scene.workers.count)
    exits = scene.workers.exits[before:]
    scene.expect(not any(exits), f"exit codes {sorted(set(exits))}")
    slowest_answer = scene.watch.slowest_seconds["abstract"]
    scene.expect(slowest_answer < _LEASE_SECONDS, "an answer waited for a lease to run out")
    said = f"{len(exits)} exits, all within {slowest_exit:.1f} s"
    slowest = f"slowest answer {slowest_answer:.1f} s after it was sent"
    return f"{said}; longest gap between results {scene.watch.longest_gap_seconds:.1f} s; {slowest}"


async def _leave(worker: WorkerProcess) -> float:
    """Ask a worker to leave, and wait until it has; returns how many seconds that took."""
    begun = time.monotonic()
    worker.terminate()
    await worker.process.wait()
    return time.monotonic() - begun


async def poisoned(scene: Scene) -> str:
    return await _among_good_ones(scene, KILLING_WORD)


async def hanging(scene: Scene) -> str:
    return await _among_good_ones(scene, HANGING_WORD)


async def _among_good_ones(scene: Scene, word: str) -> str:
    submissions: list[Submission] = scene.abstracts()
    before = len(scene.workers.exits)
    for number in range(scene.faults):
        poison = f"poison-{number}", Abstract(title="Poison", abstract=word)
        submissions.insert(scene.random.randrange(len(submissions)), poison)
        scene.ledger.hopeless.add(poison[0])
    async with scene.under_load(submissions):
        pass
    reasons = dict(scene.watch.reasons)
    scene.expect(reasons == {"max_deliveries": scene.faults}, f"refused for {reasons}")
    return f"{len(scene.workers.exits) - before} workers brought down"


ROWS = (
    Row("kill", "{faults} × kill -9 of a worker", killed, faults=200, flags={"lease-seconds": 5}),
    Row(
        "freeze",
        "{faults} × a worker frozen past its lease, then thawed",
        frozen,
        faults=50,
        milliseconds=10,
        flags={"lease-seconds": 1},
    ),
    Row(
        "rolling",
        "{faults} × SIGTERM to every worker, one after the other",
        rolling,
        faults=20,
        milliseconds=10,
        flags={"lease-seconds": _LEASE_SECONDS},
    ),
    Row(
        "poison",
        "an abstract that kills its worker, among good ones",
        poisoned,
        share=0.05,
        flags={"lease-seconds": 2},
    ),
    Row(
        "poison-10",
        "{faults} abstracts that kill their worker, among good ones",
        poisoned,
        faults=10,
        flags={"lease-seconds": 2},
    ),
    Row(
        "hang",
        "an abstract that hangs its worker, among good ones",
        hanging,
        share=0.05,
        flags={"lease-seconds": 2, "batch-deadline-seconds": 2},
    ),
    Row(
        "slow-batches",
        "batches of 11 s, with a lease of 5 s",
        slow,
        share=0.03,
        milliseconds=250,
        flags={"lease-seconds": 5},
    ),
)
