"""Calls are repeated while Redis is away, and whoever must know of that is told."""

import pytest
from abstream.consumer.retrying import until_available
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError


class Heard(list[str]):
    """An observer that remembers."""

    def redis_away(self, error: Exception) -> None:
        self.append(type(error).__name__)

    def redis_back(self) -> None:
        self.append("back")


def failing(*errors: Exception):
    """A call that fails in each of these ways in turn, and is then answered."""
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


async def test_a_call_is_repeated_until_redis_is_back():
    heard = Heard()
    assert await until_available(failing(RedisConnectionError("down"), OutOfMemoryError("full")), heard) == "done"
    assert heard == ["ConnectionError", "OutOfMemoryError", "back"]


async def test_of_a_call_that_is_answered_at_once_nobody_hears():
    heard = Heard()
    assert await until_available(failing(), heard) == "done"
    assert heard == []


async def test_a_redis_that_says_no_is_back():
    """Restarted empty, it knows no group: that is for the caller to heal."""
    heard = Heard()
    with pytest.raises(ResponseError, match="NOGROUP"):
        await until_available(failing(RedisConnectionError("down"), ResponseError("NOGROUP")), heard)
    assert heard == ["ConnectionError", "back"]
