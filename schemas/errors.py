"""Every error that abstream raises on purpose, by what the caller should do next.

AbstreamError
├── Malformed         this entry or record can never be answered: set it aside, with its reason
├── TaskInvalid       the task file contradicts itself: correct the file
├── ModelUnusable     the base model cannot be used here: choose another or repair it
├── AdapterRefused    the adapter is not served: keep the current one
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
    """The base model cannot be used here: choose another or repair it."""


class AdapterRefused(AbstreamError):
    """The adapter is not served: keep the current one."""


class Unavailable(AbstreamError):
    """Redis or a store is out of reach: wait, then retry."""


class BacklogFull(Unavailable):
    """There is no room for more abstracts: wait for ``retry_after_seconds``, then publish again.

    ``waiting`` is how many have no answer yet, ``limit`` how many may; both are None if Redis has no memory left.
    """

    def __init__(
        self, message: str, *, retry_after_seconds: float, waiting: int | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.waiting = waiting
        self.limit = limit
