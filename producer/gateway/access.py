"""Dependencies of the routes: the gateway's shared state, and the authenticated client."""

from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from .door import Door
from .problems import INVALID_TOKEN, NO_TOKEN, Problem

_bearer = HTTPBearer(
    scheme_name="token",
    description="A token from the gateway's `--tokens-file`. Not required if the gateway was started without one.",
    auto_error=False,
)


# Coroutines, because FastAPI would run plain functions in a thread for every request.
async def _door(request: Request) -> Door:
    return cast(Door, request.app.state.door)


OfDoor = Annotated[Door, Depends(_door)]


async def _caller(door: OfDoor, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> str:
    """The ``source`` of the client's abstracts.

    Raises:
        Problem: the token is missing or wrong.
    """
    if door.tokens is None:
        return door.config.source
    owner = door.tokens.owner(credentials.credentials) if credentials else None
    if owner is None:
        said = INVALID_TOKEN if credentials else NO_TOKEN
        raise Problem(401, "token", said, headers={"WWW-Authenticate": "Bearer"})
    return f"{door.config.source}:{owner}" if owner else door.config.source


Caller = Annotated[str, Depends(_caller)]
"""The ``source`` of the client's abstracts."""
