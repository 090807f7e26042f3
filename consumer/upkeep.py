"""Maintenance of a namespace: trimming streams, removing dead consumers, and reporting entries that were lost.

Every worker runs this, and in each period one of them has its turn. Nothing here touches an entry that a group still
needs.
"""

import asyncio
import hashlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from ..schemas import AbstractRefused, Lane, Refusal, Streams
from ..schemas.events import OriginalEntry
from ..schemas.streams import DEDUPE_WINDOW_SECONDS, GROUP, LANES, Output
from .answers import follows
from .config import WorkerConfig
from .metrics import Metrics
from .scripts import script

PERIOD_SECONDS = 10.0
# Much longer than any lease: what such a consumer held was taken over. A living one is created again by its next read.
SILENCE_SECONDS = 3600.0
DAY_MILLISECONDS = 24 * 3600 * 1000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Loss:
    """Entries that were removed from a lane before they were delivered to any worker.

    Attributes:
        entries: how many, as far as the server can tell; at least one.
        after: the id of an entry before all of them.
        until: the id of the last of them if it is known, else of an entry after them.
        last_known: whether ``until`` is the last of them.
    """

    entries: int
    after: str
    until: str
    last_known: bool


def loss(stream: Mapping[str, Any], group: Mapping[str, Any], delivered_before: str) -> Loss | None:
    """What was lost according to the counters of a lane and its group; None on Redis 6.2, which has no counters.

    Args:
        stream: the reply of XINFO STREAM.
        group: of the reply of XINFO GROUPS, which was asked after ``stream``.
        delivered_before: the group's last delivered id at an earlier look, when nothing was lost yet.
    """
    if "entries-added" not in stream:
        return None
    delivered, read = group["last-delivered-id"].decode(), group["entries-read"]
    missing = 0 if read is None else stream["entries-added"] - stream["length"] - read
    deleted = stream["max-deleted-entry-id"].decode()
    if _pair(deleted) > _pair(delivered):
        return Loss(max(1, missing), delivered, deleted, last_known=True)
    if missing > 0:
        first = stream["first-entry"]
        until = first[0] if first else stream["last-generated-id"]
        return Loss(missing, delivered_before, until.decode(), last_known=False)
    return None


def _pair(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number)


class Upkeep:
    """Trims, reaps and reports for one namespace. Remembers only what it saw at its last look."""

    def __init__(self, redis: Redis, streams: Streams, config: WorkerConfig, metrics: Metrics) -> None:
        self._redis = redis
        self._streams = streams
        self._worker = config.name
        self._keep_days: dict[Output, float] = {
            "predictions": config.keep_predictions_days,
            "refusals": config.keep_refusals_days,
        }
        self._metrics = metrics
        self._problems: dict[str, str] = {}  # the last error of each step that failed
        self._delivered: dict[Lane, str] = dict.fromkeys(LANES, "0-0")
        self._trim_script = script(redis, "trim")
        self._reap_script = script(redis, "reap")
        self._report_script = script(redis, "report_loss")

    async def run(self) -> None:
        """Do all steps in every period, until cancelled."""
        while True:
            # Workers that were started together wake at different times.
            await asyncio.sleep(PERIOD_SECONDS * random.uniform(0.5, 1.5))
            if await self._attempt(self.take_turn):
                for step in (self.trim, self.report_losses, self.reap):
                    await self._attempt(step)

    async def take_turn(self) -> bool:
        """Whether it is this worker's turn, because no other worker has had it in this period.

        A full Redis cannot store whose turn it is. Trimming makes room, so then every worker trims.
        """
        milliseconds = int(PERIOD_SECONDS * 1000)
        try:
            return bool(await self._redis.set(self._streams.turn, self._worker, nx=True, px=milliseconds))
        except OutOfMemoryError:
            return True

    async def trim(self) -> dict[str, int]:
        """Remove from the lanes what every group has acknowledged, and old results; the counts by stream."""
        removed = {key: await self._trim(key, "") for key in map(self._streams.lane, LANES)}
        for output, days in self._keep_days.items():
            key = self._streams.output(output)
            removed[key] = await self._trim(key, int(days * DAY_MILLISECONDS))
        return removed

    async def reap(self) -> int:
        """Remove the consumers of workers that are long gone; return how many."""
        reaped = 0
        for lane in LANES:
            try:
                reaped += await self._reap_script([self._streams.lane(lane)], [GROUP, int(SILENCE_SECONDS * 1000)])
            except ResponseError as error:
                if not _has_no_group(error):
                    raise
        if reaped:
            log.info("consumers_reaped", consumers=reaped)
        return reaped

    async def report_losses(self) -> list[Loss]:
        """Publish one refusal for entries that were removed undelivered; the losses that were not yet reported."""
        return [lost for lane in LANES if (lost := await self._report_loss(lane))]

    async def _attempt(self, step: Callable[[], Awaitable[object]]) -> object:
        """Run one step. If Redis is away or refuses, log that once, and try again in the next period."""
        name = getattr(step, "__name__", "")
        try:
            result = await step()
        except RedisError as error:
            if self._problems.get(name) != str(error):
                log.warning("upkeep_put_off", step=name, error=str(error))
            self._problems[name] = str(error)
            return None
        self._problems.pop(name, None)
        return result

    async def _trim(self, key: str, keep_milliseconds: int | str) -> int:
        removed = 0
        while part := await self._trim_script([key], [keep_milliseconds]):
            removed += part
        return removed

    async def _report_loss(self, lane: Lane) -> Loss | None:
        """Ask for the stream first: the group may read on in between, which can hide a loss and not invent one."""
        key = self._streams.lane(lane)
        try:
            stream: Any = await self._redis.xinfo_stream(key)
            groups: Any = await self._redis.xinfo_groups(key)
        except ResponseError as error:
            if _has_no_group(error):
                return None
            raise
        group = next((group for group in groups if group["name"] == GROUP.encode()), None)
        if group is None:
            return None
        lost = loss(stream, group, self._delivered[lane])
        self._delivered[lane] = group["last-delivered-id"].decode()
        return lost if lost and await self._publish(lane, lost) else None

    async def _publish(self, lane: Lane, lost: Loss) -> bool:
        """Whether this worker was the first to publish the loss."""
        key, seen = self._streams.lane(lane), self._streams.seen(time.time())
        identity = hashlib.blake2b(f"lost\0{lane}\0{lost.until}".encode(), digest_size=12).digest()
        arguments: list[bytes | str | int] = [
            GROUP, lost.until if lost.last_known else "", identity, 2 * DEDUPE_WINDOW_SECONDS,
            self._refusal(key, lost).to_json(),
        ]  # fmt: skip
        first: int = await self._report_script([key, self._streams.refusals, *seen], arguments)
        if first:
            self._metrics.lost(lane, lost.entries)
            log.error("entries_lost", lane=lane, entries=lost.entries, after=lost.after, until=lost.until)
        return bool(first)

    def _refusal(self, key: str, lost: Loss) -> AbstractRefused:
        end = "up to" if lost.last_known else "before"
        data = Refusal(
            reason="trimmed",
            message=f"of the entries after {lost.after} and {end} {lost.until}, at least {lost.entries} were removed "
            "before any worker read them: find out who trims or deletes, and publish again what has no answer",
            deliveries=0,
            consumers=(),
            retryable=False,
            original=OriginalEntry(stream=key, entry_id=lost.until, fields={}, encoding="utf8"),
        )
        return AbstractRefused(data=data, **follows(lost.until, None, self._worker))


def _has_no_group(error: ResponseError) -> bool:
    return "NOGROUP" in str(error) or "no such key" in str(error)
