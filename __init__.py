"""abstream reads abstracts from a Redis stream and publishes what cancer, if any, each is about."""

from typing import TYPE_CHECKING, Any

from .schemas import (
    Abstract,
    AbstractClassified,
    AbstractRefused,
    AbstractSubmitted,
    AbstreamError,
    BacklogFull,
    Malformed,
    Unavailable,
)

if TYPE_CHECKING:
    from .producer import Publisher, Subscriber

    __version__: str

__all__ = [
    "Abstract",
    "AbstractClassified",
    "AbstractRefused",
    "AbstractSubmitted",
    "AbstreamError",
    "BacklogFull",
    "Malformed",
    "Publisher",
    "Subscriber",
    "Unavailable",
]


def __getattr__(name: str) -> Any:
    """What takes a while to import, when it is first asked for: ``abstream --help`` needs none of it."""
    if name in ("Publisher", "Subscriber"):
        from . import producer

        value = getattr(producer, name)
    elif name == "__version__":
        from importlib.metadata import version

        value = version("abstream")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value
