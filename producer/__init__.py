"""The light client: publish abstracts, subscribe to results. Needs pydantic and redis; no torch."""

from .publisher import Published, Publisher
from .subscriber import Subscriber

__all__ = ["Published", "Publisher", "Subscriber"]
