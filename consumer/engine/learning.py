"""LoRA, RMSNorm and the MLP's gate for training, with fewer passes over memory than a layer's own modules make.

The results are those of PEFT and transformers, except for one rounding less in bfloat16.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

PIECE = 256  # rows that a CPU processes at once, so that intermediate results stay in its caches


def linear(module: Any, rows: Tensor) -> Tensor:
    """Apply ``module`` to ``rows``; plain LoRA is scaled and added within the product (``addmm``)."""
    if (name := _plain_lora(module, rows)) is None:
        given: Tensor = module(rows)
        return given
    down, up = module.lora_A[name].weight, module.lora_B[name].weight
    added: Tensor = _Added.apply(rows, module.base_layer.weight, down, up, module.scaling[name])  # type: ignore[no-untyped-call]
    return added


class _Added(torch.autograd.Function):
    """A linear layer with LoRA: adds LoRA's products in place, forward and backward, and casts its matrices once."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        down, up = down.to(weight.dtype), up.to(weight.dtype)
        inner = rows @ down.T
        ctx.save_for_backward(rows, weight, down, up, inner)
        ctx.scale = scale
        return (rows @ weight.T).addmm_(inner, up.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, down, up, inner = ctx.saved_tensors
        grad_inner = (grad_output @ up).mul_(ctx.scale)
        grad_rows = (grad_output @ weight).addmm_(grad_inner, down) if ctx.needs_input_grad[0] else None
        grad_down, grad_up = grad_inner.T @ rows, (grad_output.T @ inner).mul_(ctx.scale)
        return grad_rows, None, grad_down.float(), grad_up.float(), None


def _plain_lora(module: Any, rows: Tensor) -> str | None:
    """The name of a PEFT layer's adapter, if all it does is to add two matrices' product to a plain, frozen layer."""
    if not hasattr(module, "lora_A") or type(module.base_layer) is not nn.Linear or _is_mixed(module.base_layer, rows):
        return None
    names = [name for name in module.active_adapters if name in module.lora_A]
    if len(names) != 1 or module.merged or module.disable_adapters or module.lora_variant:
        return None
    if module.training and not isinstance(module.lora_dropout[names[0]], nn.Identity):
        return None
    autocast = torch.is_autocast_enabled(rows.device.type)
    one_dtype = autocast or module.lora_A[names[0]].weight.dtype == rows.dtype
    return names[0] if one_dtype and module.lora_B[names[0]].bias is None else None


def _is_mixed(base: nn.Linear, rows: Tensor) -> bool:
    """Whether the layer is trained itself, has a bias, or multiplies tensors of different dtypes."""
    device, dtype = rows.device.type, base.weight.dtype
    multiplied = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else dtype
    return base.weight.requires_grad or base.bias is not None or not rows.dtype == dtype == multiplied


def gated(joint: Tensor) -> Tensor:
    """SiLU of the first half of each row, times the second half (SwiGLU)."""
    done: Tensor = _Gated.apply(joint)  # type: ignore[no-untyped-call]
    return done


class _Gated(torch.autograd.Function):
    """Saves nothing but its input, and writes the gradients of both halves into one tensor."""

    @staticmethod
    def forward(ctx: Any, joint: Tensor) -> Tensor:
        ctx.save_for_backward(joint)
        done = joint.new_empty(len(joint), joint.shape[1] // 2)
        for rows, into in _pieces(joint, done):
            gate, up = rows.chunk(2, -1)
            torch.mul(functional.silu(gate), up, out=into)
        return done

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        [joint] = ctx.saved_tensors
        whole = torch.empty_like(joint)
        for rows, gradient, into in _pieces(joint, grad_output, whole):
            (gate, up), (grad_gate, grad_up) = rows.chunk(2, -1), into.chunk(2, -1)
            torch.mul(functional.silu(gate), gradient, out=grad_up)
            torch.ops.aten.silu_backward.grad_input(gradient * up, gate, grad_input=grad_gate)
        return whole


def normed(module: Any, rows: Tensor) -> Tensor:
    """Apply ``module``, an RMSNorm of transformers, to ``rows``."""
    if rows.device.type != "cpu" or module.weight.requires_grad or not rows.requires_grad:
        given: Tensor = module(rows)
        return given
    done: Tensor = _Normed.apply(rows, module.weight, module.variance_epsilon)  # type: ignore[no-untyped-call]
    return done


class _Normed(torch.autograd.Function):
    """RMSNorm that saves its input and one scale per row; its float32 intermediates stay in the caches."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        done, scales = torch.empty_like(rows), rows.new_empty(len(rows), 1, dtype=torch.float32)
        for some, scale, into in _pieces(rows, scales, done):
            wide = some.float()
            torch.rsqrt(wide.square().mean(-1, keepdim=True).add_(epsilon), out=scale)
            torch.mul((wide * scale).to(rows.dtype), weight, out=into)
        ctx.save_for_backward(rows, weight, scales)
        return done

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
        rows, weight, scales = ctx.saved_tensors
        gradient = torch.empty_like(rows)
        for some, scale, before, into in _pieces(rows, scales, grad_output, gradient):
            unit, grad_unit = some * scale, (before * weight).float()
            share = (unit * grad_unit).mean(-1, keepdim=True)
            into.copy_(grad_unit.addcmul_(unit, share, value=-1).mul_(scale))
        return gradient, None, None


def _pieces(*rows: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Slices of the same rows of each tensor; on other devices than CPUs, one slice with all rows."""
    return zip(*(each.split(PIECE if each.device.type == "cpu" else len(each)) for each in rows), strict=True)
