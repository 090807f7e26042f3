"""How a command reports its end: the contract's exit codes, and one line for people."""

import click

from ..schemas import AbstreamError, Unavailable

DONE, ERROR, USAGE, SOME_REFUSED, GATE_FAILED, OUT_OF_REACH = range(6)


def exit_code_of(error: Exception) -> int | None:
    """The exit code of an error; None for one that was not expected, which is worth a traceback."""
    from redis import exceptions as of_redis  # only now: its import takes a while

    if isinstance(error, Unavailable | of_redis.ConnectionError | of_redis.TimeoutError):
        return OUT_OF_REACH
    # What the system refuses is no fault of this program: a full disk, a folder that is not there. It has a number,
    # which a TimeoutError of asyncio, an OSError too, has not.
    of_system = isinstance(error, OSError) and error.errno is not None
    return ERROR if of_system or isinstance(error, AbstreamError | of_redis.RedisError) else None


def explain(error: Exception) -> str:
    """What went wrong, in one line; and what to do, where the error itself does not say."""
    from redis import exceptions as of_redis

    if isinstance(error, of_redis.AuthenticationError):
        return (
            f"Redis does not let this user in ({error}): give user and password in the URL, redis://USER:PASSWORD@HOST"
        )
    if isinstance(error, of_redis.ConnectionError | of_redis.TimeoutError):
        said = str(error).rstrip(".")
        return f"Redis is out of reach ({said}): is it running, and is --redis-url (REDIS_URL) its address?"
    if isinstance(error, of_redis.ResponseError):
        return f"Redis refused: {error}; `abstream doctor` checks its version, keys and permissions"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def say(said: str) -> None:
    """On stderr."""
    click.echo(f"abstream: {said}", err=True)
