"""Every error abstream raises on purpose, sorted by what the reader does next.

AbstreamError
├── Malformed         this entry or record can never be answered: set it aside, with its reason
├── TaskInvalid       the task file contradicts itself: correct the file
├── ModelUnusable     the base model cannot do this job here: choose or mend the model
├── AdapterRefused    the adapter is not served: keep the one in service
└── Unavailable       Redis or a store is out of reach: wait, then retry
    └── BacklogFull   there is no room for more abstracts: wait for `retry_after_seconds`, then publish again
"""

from typing import Literal

RefusalReason = Literal["undecodable", "invalid", "too_large", "max_deliveries", "trimmed", "inference_error"]


class AbstreamError(Exception):
    """The root: catch it to catch everything that abstream raises on purpose."""


class Malformed(AbstreamError):
    """The entry can never be answered: set it aside."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason: RefusalReason = reason
        self.message = message


class TaskInvalid(AbstreamError):
    """The task contradicts itself: correct the task file."""


class ModelUnusable(AbstreamError):
    """The base model cannot do this job here: choose or mend the model."""


class AdapterRefused(AbstreamError):
    """The adapter is not served: keep the one in service."""


class Unavailable(AbstreamError):
    """Redis or a store is out of reach: wait, then retry."""


class BacklogFull(Unavailable):
    """There is no room for more abstracts: wait for ``retry_after_seconds``, then publish again.

    ``waiting`` and ``limit`` are how many have no answer yet and how many may; None where Redis has no memory left.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float, waiting: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.waiting = waiting
        self.limit = limit
