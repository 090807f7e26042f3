"""abstream reads abstracts from a Redis stream and publishes what cancer, if any, each is about."""

from importlib.metadata import version as _version

from .producer import Publisher, Subscriber
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

__version__ = _version("abstream")

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
