"""The light client: publish abstracts, subscribe to results. Needs pydantic and redis; no torch.

Both are imported on first use, so that a program that only reads files needs no redis.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .publisher import Publisher
    from .shipping import Published
    from .subscriber import Subscriber

__all__ = ["Published", "Publisher", "Subscriber"]

_ROOMS = {"Published": ".shipping", "Publisher": ".publisher", "Subscriber": ".subscriber"}


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(_ROOMS[name], __name__), name)
    return value
