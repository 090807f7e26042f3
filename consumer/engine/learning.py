"""LoRA's sum, and the MLP's gate, in fewer passes over memory than the modules of a layer that learns would make.

The numbers are those of PEFT and transformers, but for one rounding less in bfloat16.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def linear(module: Any, rows: Tensor) -> Tensor:
    """What ``module`` gives for ``rows``; plain LoRA is scaled and added by the product itself."""
    if (name := _plain_lora(module, rows)) is None:
        given: Tensor = module(rows)
        return given
    inner, base = functional.linear(rows, module.lora_A[name].weight), module.base_layer(rows)
    up = module.lora_B[name].weight.T.to(base.dtype)
    added: Tensor = base.addmm_(inner.to(base.dtype), up, alpha=module.scaling[name])
    return added


def _plain_lora(module: Any, rows: Tensor) -> str | None:
    """The one adapter of a layer of PEFT, where nothing but two matrices is added to a plain layer."""
    if not hasattr(module, "lora_A") or type(module.base_layer) is not nn.Linear:
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) != 1 or module.merged or module.disable_adapters or module.lora_variant:
        return None
    if module.training and not isinstance(module.lora_dropout[names[0]], nn.Identity):
        return None
    one_dtype = module.lora_A[names[0]].weight.dtype == rows.dtype or torch.is_autocast_enabled(rows.device.type)
    return names[0] if one_dtype and module.lora_B[names[0]].bias is None else None


def gated(joint: Tensor) -> Tensor:
    """SiLU of the first half of each row, times the second half."""
    done: Tensor = _Gated.apply(joint)  # type: ignore[no-untyped-call]
    return done


class _Gated(torch.autograd.Function):
    """Keeps its input alone, and writes the gradients of both halves where they belong."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor) -> Tensor:
        ctx.save_for_backward(joint)
        gate, up = joint.chunk(2, -1)
        return functional.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        [joint], [gradient] = ctx.saved_tensors, gradients
        gate, up = joint.chunk(2, -1)
        whole = torch.empty_like(joint)
        of_gate, of_up = whole.chunk(2, -1)
        torch.mul(functional.silu(gate), gradient, out=of_up)
        torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=of_gate)
        return whole
