"""Element-wise functions that torch compiles into one kernel on CUDA. Elsewhere, or if that fails, they run as written.

torch's own ``TORCH_COMPILE_DISABLE=1`` turns compiling off.
"""

import logging
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

from .budget import is_out_of_memory

T = TypeVar("T")

log = logging.getLogger(__name__)


class Fused(Generic[T]):
    """``function``, whose first argument is a tensor, compiled at its first call on CUDA without gradient."""

    def __init__(self, function: Callable[..., T]) -> None:
        self._plain = function
        self._compiled: Callable[..., T] | None = None

    def __call__(self, first: torch.Tensor, *others: Any) -> T:
        if not first.is_cuda or torch.is_grad_enabled():
            return self._plain(first, *others)
        return self.compiled(first, *others)

    def compiled(self, *arguments: Any) -> T:
        """Call the function compiled for any number of tokens; after the first failure, always as written."""
        if self._compiled is None:
            self._compiled = torch.compile(self._plain, dynamic=True)
        try:
            return self._compiled(*arguments)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self._compiled = self._plain  # there may be no compiler, as in slim images
            log.warning("%s is not compiled: %s", self._plain.__name__, type(error).__name__)
            return self._plain(*arguments)
