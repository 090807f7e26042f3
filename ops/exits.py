"""How a command says how it ended: exit codes as the contract has them, and one line for people."""

import click

from ..schemas import AbstreamError, Unavailable

DONE, ERROR, USAGE, SOME_REFUSED, GATE_FAILED, OUT_OF_REACH = range(6)


def exit_code_of(error: Exception) -> int | None:
    """None for what nobody foresaw, and a traceback should tell of."""
    from redis import exceptions as of_redis  # only now: its import takes a while

    if isinstance(error, Unavailable | of_redis.ConnectionError | of_redis.TimeoutError):
        return OUT_OF_REACH
    # What the system refuses is no fault of this program: a full disk, a folder that is not there. It has a number,
    # which a TimeoutError of asyncio, an OSError too, has not.
    of_system = isinstance(error, OSError) and error.errno is not None
    return ERROR if of_system or isinstance(error, AbstreamError | of_redis.RedisError) else None


def say(error: object) -> None:
    """On stderr."""
    click.echo(f"abstream: {error}", err=True)
