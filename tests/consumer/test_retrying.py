"""Calls are retried while Redis is away, and the observer is told."""

import pytest
from abstream.consumer import retrying
from abstream.consumer.retrying import until_available
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError, ResponseError


class Heard(list[str]):
    """An observer that records what it is told."""

    def redis_away(self, error: Exception) -> None:
        self.append(type(error).__name__)

    def redis_back(self) -> None:
        self.append("back")


def failing(*errors: Exception):
    """A call that fails with each of these errors in turn, and then succeeds."""
    left = list(errors)

    async def call() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return call


async def test_a_call_is_retried_until_redis_is_back():
    heard = Heard()
    assert await until_available(failing(RedisConnectionError("down"), OutOfMemoryError("full")), heard) == "done"
    assert heard == ["ConnectionError", "OutOfMemoryError", "back"]


async def test_pauses_double_up_to_the_longest(monkeypatch):
    pauses = []

    async def note(seconds: float) -> None:
        pauses.append(seconds)

    monkeypatch.setattr(retrying, "sleep", note)
    monkeypatch.setattr(retrying.random, "uniform", lambda _, most: most)
    await until_available(failing(*[RedisConnectionError("down")] * 6), Heard())
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.5, 0.5]


async def test_a_call_that_succeeds_at_once_is_not_reported():
    heard = Heard()
    assert await until_available(failing(), heard) == "done"
    assert heard == []


async def test_an_error_reply_means_that_redis_is_back():
    """A Redis that restarted empty has no group, which the caller must recreate."""
    heard = Heard()
    with pytest.raises(ResponseError, match="NOGROUP"):
        await until_available(failing(RedisConnectionError("down"), ResponseError("NOGROUP")), heard)
    assert heard == ["ConnectionError", "back"]
