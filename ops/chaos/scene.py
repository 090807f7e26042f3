"""Where a row is played: a server, workers, a publisher, a subscriber, and between them the network."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from random import Random
from typing import Any, cast

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from ...consumer.tasks import end
from ...producer.connection import Connections, Shard
from ...schemas import Event, Shards
from ...schemas.streams import GROUP, LANES, Output, from_fields
from .cluster import Cluster
from .ledger import Found, Ledger
from .proxy import Proxy
from .servers import Server, free_port
from .traffic import WORDS, Load, Submission, Watch, abstracts, submission_of
from .waiting import until, within
from .workers import WorkerProcess, Workers

Entry = tuple[bytes, dict[bytes, bytes]]

FULL = 20_000  # abstracts, of which the figures of the rows speak
STILL_SECONDS = 60  # without a result, after which nothing more is hoped for
LEAST_SECONDS = 3  # of a fault that lasts, on whatever scale: longer than the longest pause between two tries
_SETTLING_SECONDS = 30  # for what is read again; shorter than a lease that is not to be waited for
_SIGHT_SECONDS = 5  # for a subscriber to see what was published
_NODE_TIMEOUT_MILLISECONDS = 2_000  # of a cluster: after so long without a word, a node is replaced
_RESULTS: tuple[Output, ...] = ("predictions", "refusals")
_PAGE = 100  # results in a reply: a refusal may be of 10 MB
_USER, _PASSWORD = "worker", "of-a-server-that-nobody-else-reaches"

AOF_ALWAYS = ("--appendonly", "yes", "--appendfsync", "always")
AOF_EVERYSEC = ("--appendonly", "yes", "--appendfsync", "everysec")


@dataclass(frozen=True)
class Scale:
    """The size of a run: the numbers of a row are for ``FULL`` abstracts."""

    abstracts: int
    workers: int
    seed: int

    def of(self, full: int) -> int:
        """``full`` scaled to the number of abstracts, at least one."""
        return max(1, round(full * self.abstracts / FULL))


@dataclass(frozen=True)
class Row:
    """One thing that goes wrong.

    Attributes:
        name: what ``--rows`` calls it.
        fault: what is done, in words; ``{faults}`` and ``{seconds}`` are filled in.
        perform: does it, under load; returns in words what else is worth knowing.
        share: of the abstracts that this row takes.
        faults: how often, at full scale.
        seconds: how long, at full scale.
        milliseconds: what an abstract takes, so that the work lasts as long as the faults.
        flags: of the workers.
        redis: options of the server.
        rights: what the workers may do in Redis, as an access control list says it; everything where empty.
        through_proxy: whether workers and publisher reach Redis through a network that can fail.
        replicated: whether there is a replica, which all are led to, the subscriber too, when the primary is gone.
        shards: over which the namespace is spread, in a Redis Cluster where it is more than one.
    """

    name: str
    fault: str
    perform: Callable[["Scene"], Awaitable[str]]
    share: float = 1
    faults: int = 1
    seconds: float = 0
    milliseconds: float = 3
    flags: Mapping[str, float] = field(default_factory=dict)
    redis: tuple[str, ...] = AOF_EVERYSEC
    rights: str = ""
    through_proxy: bool = False
    replicated: bool = False
    shards: int = 1


class Scene:
    """What the faults of a row are done to."""

    def __init__(self, row: Row, scale: Scale, place: "_Place", workers: Workers, stack: AsyncExitStack) -> None:
        self.row = row
        self.random = Random(scale.seed)
        self.workers = workers
        self.names = Shards(count=row.shards)
        self.streams = self.names.control
        self.ledger = Ledger()
        self.stack = stack  # what a fault brings in stays to the end of the row
        self.watch = Watch(place.watch_url, self.names, forgets=row.replicated)
        self.load = Load(place.url, self.names, self.ledger, self.watch)
        self.load.wait_replicas = int(row.replicated)
        self.total = max(1, round(scale.abstracts * row.share))
        self.faults = scale.of(row.faults)
        self.seconds = max(min(row.seconds, LEAST_SECONDS), row.seconds * scale.abstracts / FULL)
        self.missed: list[str] = []
        self.beyond: list[str] = []
        self._server = place.server
        self._proxy = place.proxy
        self._cluster = place.cluster
        self._connections = Connections(place.url, self.names)
        stack.push_async_callback(self._connections.aclose)

    @property
    def server(self) -> Server:
        assert self._server, f"{self.row.name} is played in a cluster"
        return self._server

    @server.setter
    def server(self, server: Server) -> None:
        self._server = server

    @property
    def cluster(self) -> Cluster:
        assert self._cluster, f"{self.row.name} is played without a cluster"
        return self._cluster

    @property
    def shards(self) -> list[Shard]:
        """The shards that hold the results, reached without the faulty network."""
        return self._connections.shards if self._cluster else [Shard(self.server.redis, self.streams)]

    @property
    def network(self) -> Proxy:
        assert self._proxy, f"{self.row.name} is not played through a proxy"
        return self._proxy

    def expect(self, condition: bool, otherwise: str) -> None:
        """Require a condition beyond the audit."""
        if not condition:
            self.missed.append(otherwise)

    def limit(self, figure: float, most: float, what: str) -> None:
        """Require a limit of time or memory, which also depends on the machine."""
        if figure > most:
            self.beyond.append(f"{what}: {figure:.3g}, more than {most:g}")

    def expect_no_exits(self) -> None:
        """Require that no worker exits."""
        self.expect(not self.workers.exits, f"workers ended with {self.workers.exits}")

    @property
    def fault(self) -> str:
        """What is done, in words."""
        return self.row.fault.format(faults=self.faults, seconds=f"{self.seconds:g}")

    def abstracts(self, length: int = WORDS) -> list[Submission]:
        """The valid abstracts of this row, each of the given number of words."""
        return list(abstracts(self.total, self.random, length))

    @asynccontextmanager
    async def under_load(self, submissions: Sequence[Submission] | None = None) -> AsyncIterator[None]:
        """While the block lasts, abstracts are published; it ends when all are answered, or no more come."""
        sending = asyncio.create_task(self.load.send(submissions or self.abstracts()))
        self.watch.begin()
        try:
            yield
            await self.until(sending.done)
            if sending.done():
                sending.result()  # an error of the publisher is the row's
            else:
                self.missed.append(f"only {self.load.sent} could be sent")
            await self.all_answered()
        finally:
            await end([sending])

    async def submit(self, fields: Mapping[str, bytes]) -> None:
        """Send a raw entry that must be refused; it is known by its entry id."""
        added: Any = await self.server.redis.xadd(self.streams.lane("interactive"), dict(fields.items()))
        self.ledger.offered.add(added.decode())
        self.ledger.hopeless.add(added.decode())
        self.ledger.accept([added.decode()])
        self.load.sent += 1

    async def all_answered(self) -> None:
        """Wait until everything accepted is answered and nothing is pending; the audit says whether that happened."""
        await self.until(lambda: self.ledger.accepted.keys() <= self.watch.seen.keys())
        await until(self._is_settled, within(_SETTLING_SECONDS))

    async def moments(self) -> AsyncIterator[None]:
        """The moments of the faults: random, and spread over the work."""
        for number in range(self.faults):
            due = self.total * 0.9 * (number + self.random.random()) / self.faults
            await self.until(partial(self._has_seen, due))
            yield

    async def victims(self) -> AsyncIterator[WorkerProcess]:
        """At each moment, a worker that is ready."""
        async for _ in self.moments():
            yield await self.workers.victim()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition, as long as results keep coming."""
        begun = time.monotonic()
        await until(condition, lambda: time.monotonic() - max(begun, self.watch.last_result_at) < STILL_SECONDS)

    async def first_result(self) -> float:
        """Seconds until the next result is seen; none comes where all were answered."""
        begun, seen = time.monotonic(), self.watch.seen.total()
        await self.until(lambda: self.watch.seen.total() > seen or len(self.watch.seen) >= self.total)
        return time.monotonic() - begun

    async def found(self) -> Found:
        """What Redis holds now, and what the subscriber saw."""
        predictions, refusals = [await self._results(output) for output in _RESULTS]
        results = predictions.total() + refusals.total()
        await until(lambda: self.watch.seen.total() >= results, within(_SIGHT_SECONDS))
        return Found(
            predictions=predictions,
            refusals=refusals,
            seen=self.watch.seen,
            pending=(await self._pending()).total(),
            unread=await self._unread(),
        )

    async def unsee(self) -> int:
        """Forget having seen results that are gone, as after a power loss; returns how many."""

        async def standing() -> set[str]:
            return {event.id for output in _RESULTS async for event in self._events(output)}

        return await self.watch.unsee(standing)

    async def held_by(self, worker: WorkerProcess) -> int:
        """Entries that a worker has taken and not answered."""
        return (await self._pending())[worker.name]

    def _has_seen(self, submissions: float) -> bool:
        return len(self.watch.seen) >= submissions

    async def _is_settled(self) -> bool:
        """Whether no worker has any work left; not while a group that was destroyed has yet to be created anew."""
        try:
            return not (await self._pending() or await self._unread())
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return False

    async def _results(self, output: Output) -> Counter[str]:
        results: Counter[str] = Counter()
        async for event in self._events(output):
            results[submission_of(event)] += 1
        return results

    async def _events(self, output: Output) -> AsyncIterator[Event]:
        """One by one: a million at once would keep the garbage collector busy for longer than a reply may take."""
        for redis, streams in self.shards:
            start = "-"
            while page := await _page(redis, streams.output(output), start):
                for _, fields in page:
                    yield from_fields(fields)
                start = f"({page[-1][0].decode()}"

    async def _pending(self) -> Counter[str]:
        """Entries taken and not answered, by worker."""
        pending: Counter[str] = Counter()
        for (redis, streams), lane in product(self.shards, LANES):
            summary: Any = await redis.xpending(streams.lane(lane), GROUP)
            pending.update({holder["name"].decode(): holder["pending"] for holder in summary["consumers"]})
        return pending

    async def _unread(self) -> int:
        """Entries that no worker has read; counted, since Redis 6.2 does not say."""
        unread = 0
        for (redis, streams), lane in product(self.shards, LANES):
            groups: Any = await redis.xinfo_groups(streams.lane(lane))
            last = next(group["last-delivered-id"] for group in groups if group["name"] == GROUP.encode())
            unread += len(await _page(redis, streams.lane(lane), f"({last.decode()}", None))
        return unread


async def _page(redis: Redis, stream: str, start: str, count: int | None = _PAGE) -> Sequence[Entry]:
    # redis-py's own types are the union of all protocols' replies; of RESP2's, this is the one.
    page: Any = await redis.xrange(stream, start, count=count)
    return cast(Sequence[Entry], page)


@dataclass
class _Place:
    """The setting of a row: one server, or a cluster.

    Attributes:
        url: for workers and publisher.
        watch_url: for the subscriber, which no network is to keep from seeing.
    """

    url: str
    watch_url: str
    server: Server | None = None
    proxy: Proxy | None = None
    cluster: Cluster | None = None


async def _place(row: Row, random: Random, stack: AsyncExitStack) -> _Place:
    if row.shards > 1:
        cluster = Cluster(*row.redis, node_timeout_milliseconds=_NODE_TIMEOUT_MILLISECONDS)
        await stack.enter_async_context(cluster)
        return _Place(cluster.url, cluster.url, cluster=cluster)
    rights = ("--user", _USER, "on", f">{_PASSWORD}", *row.rights.split()) if row.rights else ()
    port = free_port() if row.replicated else 0
    server = await stack.enter_async_context(Server(*row.redis, *rights, port=port))
    proxy = await stack.enter_async_context(Proxy(server.folder, random)) if row.through_proxy else None
    url = proxy.url if proxy else server.url
    return _Place(url, url if row.replicated else server.url, server, proxy)


@asynccontextmanager
async def scene(row: Row, scale: Scale, folder: Path) -> AsyncIterator[Scene]:
    """Everything a row needs, running and ready; only the workers' logs in ``folder`` remain at the end."""
    random = Random(scale.seed)
    async with AsyncExitStack() as stack:
        place = await _place(row, random, stack)
        flags = {"engine-milliseconds": row.milliseconds, **row.flags}
        url = place.url
        if row.rights:
            url = url.replace("unix://", f"unix://{_USER}:{_PASSWORD}@")
        workers = await stack.enter_async_context(Workers(url, scale.workers, flags, folder, random, row.shards))
        played = Scene(row, scale, place, workers, stack)
        await stack.enter_async_context(played.watch)
        yield played
