"""Converts tensors that are sharded over processes (FSDP) to full ones and back; other tensors are left as they are.

To gather a full tensor is a collective operation: every process must call it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

State = dict[str, Any]


def whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors with all shards gathered."""
    return {name: tensor.full_tensor() if isinstance(tensor, DTensor) else tensor for name, tensor in tensors.items()}


def sharded_like(tensors: Mapping[str, Tensor], examples: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Full tensors, each sharded like the example of the same name."""
    return {name: _sharded_like(tensor, examples[name]) for name, tensor in tensors.items()}


def local(tensor: Tensor) -> Tensor:
    """This process's shard of a tensor, in the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole_optimizer(optimizer: torch.optim.Optimizer) -> State:
    """The optimizer's state as it would be in a single process."""
    state: State = optimizer.state_dict()
    return state | {"state": {number: whole(values) for number, values in state["state"].items()}}


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """Restore a state from ``whole_optimizer``."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    sharded = {
        number: {
            name: _sharded_like(value, weights[number]) if value.shape == weights[number].shape else value
            for name, value in values.items()
        }
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": sharded})


def _sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    if not isinstance(example, DTensor):
        return tensor
    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements)
