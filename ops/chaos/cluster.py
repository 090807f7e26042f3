"""A private Redis Cluster of three primaries with a replica each, whose nodes can be killed and started again."""

import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from functools import partial
from random import randrange
from types import TracebackType
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from redis.exceptions import RedisError

from ...producer.cluster import MARK, read_slots
from ...schemas import AbstreamError, Streams
from .servers import Server
from .waiting import until, within

_HOST = "127.0.0.1"
_PRIMARIES = 3
_FORMING_SECONDS = 30
_BUS_OFFSET = 10_000  # from a node's port to that at which nodes speak to each other


class Cluster:
    """Six servers on loopback; the first three are primaries to begin with."""

    def __init__(self, *options: str, node_timeout_milliseconds: int) -> None:
        """
        Args:
            options: of every server.
            node_timeout_milliseconds: of silence, after which a node counts as failed and is replaced.
        """
        own = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(node_timeout_milliseconds))
        fast = ("--repl-diskless-sync", "yes", "--repl-diskless-sync-delay", "0")
        self.nodes = [Server(*options, *own, *fast, port=free_port_of_node()) for _ in range(2 * _PRIMARIES)]
        self._stack = AsyncExitStack()

    @property
    def url(self) -> str:
        """The URL of one node, which knows the others."""
        return f"redis{MARK}://{_HOST}:{self.nodes[-1].port}"

    async def __aenter__(self) -> "Cluster":
        async with AsyncExitStack() as stack:
            for node in self.nodes:
                await stack.enter_async_context(node)
            await self._form()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def primary_of(self, streams: Streams) -> Server:
        """The node that has a shard's keys according to most nodes: after a change it takes a while until all agree."""
        slot = key_slot(streams.predictions.encode())
        votes: Counter[int] = Counter()
        for node in self.nodes:
            with suppress(RedisError):  # it was killed, or is only just back
                owner, _ = read_slots(await _ask(node, "SLOTS"), slot, (_HOST, node.port))
                votes.update([owner[1]] if owner else [])
        if not votes:
            raise AbstreamError("no node of the cluster says who has the shard")
        [(port, _)] = votes.most_common(1)
        return next(node for node in self.nodes if node.port == port)

    async def restart(self, node: Server) -> None:
        """Restart a killed node, which follows the node that took its place; returns when it is in sync."""
        await node.start()
        await _in_time(lambda: _follows(node), "a node that was killed did not come back as a replica")

    async def _form(self) -> None:
        first, *others = self.nodes
        primaries, replicas = self.nodes[:_PRIMARIES], self.nodes[_PRIMARIES:]
        for number, node in enumerate(self.nodes):
            await _ask(node, "SET-CONFIG-EPOCH", number + 1)
        for number, node in enumerate(primaries):
            begin, end = (at * REDIS_CLUSTER_HASH_SLOTS // _PRIMARIES for at in (number, number + 1))
            await _ask(node, "ADDSLOTS", *range(begin, end))
        for node in others:
            await _ask(first, "MEET", _HOST, node.port)
        await _in_time(self._agrees, "the nodes did not come to know each other")
        for primary, replica in zip(primaries, replicas, strict=True):
            await _ask(replica, "REPLICATE", await _ask(primary, "MYID"))
        for replica in replicas:
            await _in_time(partial(_follows, replica), "a replica did not follow")

    async def _agrees(self) -> bool:
        infos = [await _ask(node, "INFO") for node in self.nodes]
        known = f"cluster_known_nodes:{len(self.nodes)}\r".encode()
        return all(known in info and b"cluster_state:ok\r" in info for info in infos)


async def _ask(node: Server, *command: str | int | bytes) -> Any:
    client: Any = node.redis  # redis-py leaves it without types
    return await client.execute_command("CLUSTER", *command)


async def _follows(node: Server) -> bool:
    info: Any = await node.redis.info("replication")
    return bool(info["role"] == "slave" and info["master_link_status"] == "up")


async def _in_time(condition: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    if not await until(condition, within(_FORMING_SECONDS)):
        raise AbstreamError(otherwise)


def free_port_of_node() -> int:
    """A port that is free, and whose bus port is free too."""
    while True:
        port = randrange(20_000, 50_000)
        try:
            with socket.create_server((_HOST, port)), socket.create_server((_HOST, port + _BUS_OFFSET)):
                return port
        except OSError:
            continue
