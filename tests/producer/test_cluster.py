"""The owner of a slot, according to the nodes of a Redis Cluster."""

import socket
import threading

import pytest
from abstream.ops.settings import check_redis_url
from abstream.producer.cluster import Directory, read_slots
from abstream.producer.connection import connect, connect_blocking
from abstream.schemas import Streams
from click import UsageError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

ASKED = ("asked", 7000)
ROWS = [
    [0, 8191, [b"10.0.0.1", 7001, b"id", []], [b"10.0.0.2", 7002, b"id", []]],
    [8192, 16383, [b"", 7003, b"id", []]],
]


def test_it_is_the_first_node_of_the_row():
    assert read_slots(ROWS, 8191, ASKED)[0] == ("10.0.0.1", 7001)


@pytest.mark.parametrize("name", [b"", b"?", None])
def test_a_node_that_does_not_know_its_name_is_the_one_that_was_asked(name):
    rows = [[0, 16383, [name, 7003, b"id"]]]
    assert read_slots(rows, 5, ASKED) == (("asked", 7003), [("asked", 7003)])


def test_a_slot_may_be_nobodys_and_all_nodes_are_known():
    owner, known = read_slots(ROWS[:1], 9000, ASKED)
    assert (owner, known) == (None, [("10.0.0.1", 7001), ("10.0.0.2", 7002)])


class Node:
    """A node that sends every connection the same reply, and counts them."""

    def __init__(self, reply: bytes) -> None:
        self.asked = 0
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                while request := client.recv(1 << 16):
                    slots = b"SLOTS" in request
                    self.asked += slots
                    client.sendall(self._reply if slots else b"+OK\r\n" * request.count(b"*"))

    def close(self) -> None:
        self._listener.close()


def slots_of(*nodes: tuple[str, int]) -> bytes:
    """A reply in which the first node has all slots, and the others are its replicas."""
    rows = b"".join(b"*2\r\n$%d\r\n%s\r\n:%d\r\n" % (len(host), host.encode(), port) for host, port in nodes)
    return b"*1\r\n*%d\r\n:0\r\n:16383\r\n" % (2 + len(nodes)) + rows


def test_while_one_node_is_away_another_is_asked():
    living = Node(slots_of(("10.0.0.9", 7009)))
    seed = Node(slots_of(("127.0.0.1", living.port)))
    directory = Directory(f"redis://127.0.0.1:{seed.port}", "key")
    assert directory.owner() == ("127.0.0.1", living.port)
    seed.close()
    living.asked = 0
    directory._known = (("127.0.0.1", 1), *directory._known[1:])
    assert directory.owner() == ("10.0.0.9", 7009)
    assert living.asked == 1
    living.close()


def test_where_no_node_answers_redis_is_away():
    with pytest.raises(RedisConnectionError, match="no node of the Redis Cluster"):
        Directory("redis://127.0.0.1:1", "key").owner()


async def test_a_server_that_is_no_cluster_is_told_apart_from_one_that_is_away():
    lone = Node(b"-ERR This instance has cluster support disabled\r\n")
    url = f"redis+cluster://127.0.0.1:{lone.port}"
    with connect_blocking(url, Streams()) as redis, pytest.raises(ResponseError, match="redis:// where Redis is no"):
        redis.ping()
    async with connect(url, Streams()) as redis:
        with pytest.raises(ResponseError, match="redis:// where Redis is no"):
            await redis.ping()
    lone.close()


@pytest.mark.parametrize("url", ["redis+cluster://host:7000", "rediss+cluster://user:secret@host"])
def test_the_url_of_a_cluster_is_one(url):
    check_redis_url(url)


@pytest.mark.parametrize(
    "url",
    [
        *("unix+cluster:///path", "redis+other://host", "redis://host/database"),
        *("redis://host?nonsense=1", "redis+cluster://host?socket_timeout=long"),
    ],
)
def test_what_redis_py_does_not_take_or_takes_for_another_is_no_url(url):
    with pytest.raises(UsageError):
        check_redis_url(url)
