"""The parts of a model in service: shared with the other replicas on this machine, or held by this process alone.

Answers are identical to the bit in both cases, so that a process that cannot share them uses its own.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ...schemas import VerifiedAdapter
from .forward import served
from .means import joint_weights, mean_heads, without_queries_and_keys
from .merging import Base
from .parts import OwnParts, Parts, SharedParts, write_parts
from .products import Product, product


def parts_in_service(base: Base, adapter: VerifiedAdapter | None, make: Callable[[Tensor], Product] = product) -> Parts:
    """The parts of the base with the adapter merged in.

    Args:
        base: the base model.
        adapter: None for the bare base.
        make: makes the products; always the same function for the same ``base.precision``.

    Raises:
        AdapterRefused: see ``Base.weights``.
    """

    def own() -> OwnParts:
        weights = base.weights(adapter)
        joint = ([weights[name]] for name in joint_weights(base.shape))
        means = mean_heads(joint, base.shape) if base.device.type == "cpu" else 0
        return OwnParts(without_queries_and_keys(weights, base.shape, means), make, means)

    if not base.slots:
        return own()
    # Names the adapter, and everything that decides the form in which oneDNN packs the weights.
    key = f"{base.key} {adapter.digest if adapter else 'bare'} {torch.__version__} {torch.get_num_threads()}"
    kept = base.slots.get(
        key, lambda writer: write_parts(own(), base.as_it_is, lambda parts: served(parts, base.shape), writer)
    )
    return SharedParts(kept, base.as_it_is, fuses=make is product) if kept else own()
