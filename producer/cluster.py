"""Redis Cluster, as seen by a client of one shard: the server that has the shard's hash slot, wherever that is now.

All keys of a shard are in one slot, so a client of the shard never needs two servers. It is therefore a plain client
whose connections ask the cluster for the right server when they are opened. When a server replies that the slot is
elsewhere, or unavailable for now, the connection is closed and Redis counts as away: the next try asks again.
"""

import asyncio
from typing import Any

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, ReadOnlyError, ResponseError, TryAgainError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

MARK = "+cluster"  # of a URL's scheme: redis+cluster://HOST:PORT, rediss+cluster://HOST:PORT
_ANSWER_SECONDS = 1.0  # for a node to say who has a slot; then another is asked

# The slot is elsewhere, being moved, or unavailable. In redis-py MOVED is a kind of ASK, MASTERDOWN of CLUSTERDOWN.
_ELSEWHERE = (AskError, ClusterDownError, ReadOnlyError, TryAgainError)
_NO_PRIMARY_ANY_MORE = "UNBLOCKED"  # the error of a blocked read in this case; redis-py has no class for it

Node = tuple[str, int]


class Directory:
    """Knows the nodes of a cluster, and asks them who has one slot. May be used by several threads."""

    def __init__(self, url: str, key: str) -> None:
        """
        Args:
            url: of any node, without the mark.
            key: of the slot.
        """
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_ANSWER_SECONDS,
        )
        self._connection_class = pool.connection_class
        self._options = {"host": "localhost", "port": 6379, **pool.connection_kwargs}
        self._slot = key_slot(key.encode())
        self._seed: Node = (self._options["host"], self._options["port"])
        self._known: tuple[Node, ...] = (self._seed,)

    def owner(self) -> Node:
        """The primary that has the slot, according to the first node that answers and knows it.

        Raises:
            redis.exceptions.ConnectionError: no node answers, or none knows it.
            redis.exceptions.ResponseError: this is no cluster, or this user may not ask.
        """
        said = "the slot is nobody's"
        for node in self._known:
            try:
                reply = self._ask(node)
            except (RedisConnectionError, RedisTimeoutError) as error:
                said = str(error)
                continue
            owner, named = read_slots(reply, self._slot, node)
            # Nodes that answer are asked first next time, and the seed last: its name may lead to another node by then.
            self._known = tuple(dict.fromkeys([node, *named, self._seed]))
            if owner:
                return owner
        raise RedisConnectionError(f"no node of the Redis Cluster knows where the keys are: {said}")

    def doubt(self) -> None:
        """The last reply was wrong, perhaps outdated: ask another node first next time."""
        first, *others = self._known
        self._known = (*others, first)

    def _ask(self, node: Node) -> list[list[Any]]:
        host, port = node
        connection: Any = self._connection_class(**{**self._options, "host": host, "port": port})
        try:
            connection.connect()
            connection.send_command("CLUSTER", "SLOTS")
            reply: list[list[Any]] = connection.read_response()
        except ResponseError as error:
            raise ResponseError(
                f"{error} (asked CLUSTER SLOTS: let this user do it, or write redis:// where Redis is no cluster)"
            ) from error
        finally:
            connection.disconnect()
        return reply


def read_slots(reply: list[list[Any]], slot: int, asked: Node) -> tuple[Node | None, list[Node]]:
    """Parse a reply to CLUSTER SLOTS: the primary that has a slot, if there is one, and all nodes.

    Args:
        reply: rows with the first and the last slot, the primary, and its replicas.
        slot: from 0 to 16383.
        asked: the node that replied; it leaves out its own name if it does not know it.
    """
    rows = [(first, last, [_address(node, asked) for node in nodes]) for first, last, *nodes in reply]
    owner = next((nodes[0] for first, last, nodes in rows if first <= slot <= last), None)
    return owner, [node for _, _, nodes in rows for node in nodes]


def _address(node: list[Any], asked: Node) -> Node:
    host = node[0].decode() if isinstance(node[0], bytes) else node[0]
    return (asked[0] if host in (None, "", "?") else host), int(node[1])


class AtOwner:
    """A mixin for connections of redis.asyncio: connects to the primary that has the slot, as long as it has it."""

    directory: Directory  # an attribute of the class, which is made for one client

    async def connect(self) -> None:
        if not self.is_connected:  # type: ignore[attr-defined]
            self.host, self.port = await asyncio.to_thread(self.directory.owner)
        await super().connect()  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_elsewhere(error):
                raise
            self.directory.doubt()
            await self.disconnect()  # type: ignore[attr-defined]
            raise _away(error) from error


class AtOwnerBlocking:
    """The same for blocking connections."""

    directory: Directory

    def connect(self) -> None:
        if not self.is_connected:  # type: ignore[attr-defined]
            self.host, self.port = self.directory.owner()
        super().connect()  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError as error:
            if not is_elsewhere(error):
                raise
            self.directory.doubt()
            self.disconnect()  # type: ignore[attr-defined]
            raise _away(error) from error


def is_elsewhere(error: ResponseError) -> bool:
    """Whether the error means that the keys are on another server now."""
    return isinstance(error, _ELSEWHERE) or str(error).startswith(_NO_PRIMARY_ANY_MORE)


def _away(error: Exception) -> RedisConnectionError:
    """The error to raise: the command was refused, so nothing was changed."""
    return RedisConnectionError(f"the node of the Redis Cluster does not have these keys now: {error}")
