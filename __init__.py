"""abstream reads abstracts from a Redis stream and publishes what cancer, if any, each is about."""

from importlib.metadata import version

from .producer import Publisher, Subscriber
from .schemas import (
    Abstract,
    AbstractClassified,
    AbstractRefused,
    AbstractSubmitted,
    AbstreamError,
    Malformed,
    Unavailable,
)

__version__ = version("abstream")

__all__ = [
    "Abstract",
    "AbstractClassified",
    "AbstractRefused",
    "AbstractSubmitted",
    "AbstreamError",
    "Malformed",
    "Publisher",
    "Subscriber",
    "Unavailable",
]
