"""Lua scripts: every change that must be atomic is one script, in a file of its own."""

from importlib.resources import files

from redis.asyncio import Redis
from redis.commands.core import AsyncScript


def script(redis: Redis, name: str) -> AsyncScript:
    """The script ``name``.lua, which is loaded once and then called by its digest."""
    return redis.register_script(source(name))


def source(name: str) -> str:
    """The text of ``name``.lua."""
    return (files(__package__) / f"{name}.lua").read_text()
