"""Norms and gated MLPs of a decoder in fewer passes over memory than a module tree makes, on a CPU in float32.

A module is replaced only if it gives, on random input, what the replacement gives: a norm that adds one to its weight,
or an MLP with another activation, stays what it is.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from gspo.models.cpu.fused_attention import _FusedAttention, fuse_attention, same_values
from gspo.models.cpu.linear import (
    FastLinear,
    gradient_of_weight,
    linear,
    linear_plus,
    on_cpu_in_float32,
    use_fast_linears,
)

__all__ = ["undo_fused_kernels", "use_fused_kernels"]

# A norm's result is divided by weights no smaller than this, so that no digits are lost.
_SMALLEST = 1e-6


class _RMSNorm(torch.autograd.Function):
    """x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019, arXiv 1910.07467).

    What is kept is the result, which the layer behind keeps too, and one number a row: x has no other use.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        inverse = _inverse_rms(x, eps)
        out = (x * inverse).mul_(weight)
        ctx.from_result = bool(weight.abs().amin() > _SMALLEST)
        ctx.save_for_backward(out if ctx.from_result else x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        kept, weight, inverse = ctx.saved_tensors
        (grad,) = grads
        normed = kept / weight if ctx.from_result else kept * inverse
        both = grad * normed
        along = (both @ weight).div_(weight.shape[0])[..., None]
        of_x = (grad * weight).sub_(normed.mul_(along)).mul_(inverse)
        of_weight = both.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        return of_x, of_weight, None


def _inverse_rms(x: Tensor, eps: float) -> Tensor:
    return torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()


class _GatedMLP(torch.autograd.Function):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020, arXiv 2002.05202); x and the two inner products are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, up: Tensor, down: Tensor) -> Tensor:
        gated, raised = linear(x, gate), linear(x, up)
        ctx.save_for_backward(x, gate, up, down, gated, raised)
        return linear(functional.silu(gated).mul_(raised), down)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, up, down, gated, raised = ctx.saved_tensors
        (grad,) = grads
        opened = functional.silu(gated)
        inner = linear(grad, down.t())
        of_down = gradient_of_weight(grad, opened * raised) if ctx.needs_input_grad[3] else None
        of_raised = opened.mul_(inner)
        of_gated = torch.ops.aten.silu_backward(inner.mul_(raised), gated)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = linear_plus(of_raised, up.t(), linear(of_gated, gate.t()))
        of_gate = gradient_of_weight(of_gated, x) if ctx.needs_input_grad[1] else None
        of_up = gradient_of_weight(of_raised, x) if ctx.needs_input_grad[2] else None
        return of_x, of_gate, of_up, of_down


class _FusedNorm(nn.Module):
    weight: nn.Parameter

    def forward(self, hidden_states: Tensor) -> Tensor:
        if not on_cpu_in_float32(hidden_states, self.weight):
            return cast(Tensor, super().forward(hidden_states))
        if torch.is_grad_enabled():
            return cast(Tensor, _RMSNorm.apply(hidden_states, self.weight, _eps(self)))
        return (hidden_states * _inverse_rms(hidden_states, _eps(self))).mul_(self.weight)


class _FusedMLP(nn.Module):
    gate_proj: FastLinear
    up_proj: FastLinear
    down_proj: FastLinear

    def forward(self, x: Tensor) -> Tensor:
        gate, up, down = self.gate_proj, self.up_proj, self.down_proj
        # A layer that was replaced since (an adapter) has a forward of its own.
        if not on_cpu_in_float32(x, gate.weight) or any(type(layer) is not FastLinear for layer in (gate, up, down)):
            return cast(Tensor, super().forward(x))
        if torch.is_grad_enabled():
            return cast(Tensor, _GatedMLP.apply(x, gate.weight, up.weight, down.weight))
        products = torch.ops.mkldnn._linear_pointwise
        opened = products(x, gate.laid_out, None, "swish", [], "")
        return linear(products.binary(x, opened, up.laid_out, None, "mul"), down.laid_out)


def use_fused_kernels(model: nn.Module) -> None:
    """Puts a model's linear layers, norms, MLPs and attention layers on this project's operations where they serve.

    In place; names and weights stay. Nothing changes on another device or in another type than float32, nor where it
    was done before.
    """
    use_fast_linears(model)
    _fuse_modules(model)
    fuse_attention(model)


def undo_fused_kernels(model: nn.Module) -> None:
    """Puts a model's layers back on their own operations, in place."""
    for module in model.modules():
        if isinstance(module, (_FusedNorm, _FusedMLP, _FusedAttention)):
            _become(module, type(module).__bases__[1])
        elif type(module) is FastLinear:
            _become(module, nn.Linear)


def _become(module: Any, kind: type) -> None:
    module.__class__ = kind


def _fuse_modules(model: nn.Module) -> None:
    """Replaces the norms and gated MLPs that are of the usual form."""
    agreed: dict[tuple[type, tuple[int, ...]], bool] = {}
    for module in model.modules():
        weight = None if isinstance(module, (_FusedNorm, _FusedMLP)) else _leading_weight(module)
        if weight is None or not on_cpu_in_float32(weight, weight):
            continue
        original, mixin = type(module), _FusedNorm if weight.dim() == 1 else _FusedMLP
        case = (original, tuple(weight.shape))
        module.__class__ = type(f"Fused{original.__name__}", (mixin, original), {})
        if case not in agreed:
            agreed[case] = _agrees(module, original, weight)
        if not agreed[case]:
            module.__class__ = original


def _leading_weight(module: nn.Module) -> Tensor | None:
    """The weight of a norm, or the gate's of an MLP; None for any other module."""
    weight = getattr(module, "weight", None)
    if type(module).__name__.endswith("RMSNorm") and isinstance(weight, nn.Parameter):
        return weight if weight.dim() == 1 and _eps(module) > 0 else None
    layers = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    if all(type(layer) is FastLinear and layer.bias is None for layer in layers):
        return cast(FastLinear, layers[0]).weight
    return None


def _eps(module: nn.Module) -> float:
    return float(getattr(module, "variance_epsilon", None) or getattr(module, "eps", None) or 0.0)


@torch.no_grad()
def _agrees(module: nn.Module, original: type[nn.Module], weight: Tensor) -> bool:
    x = torch.randn(3, weight.shape[-1], generator=torch.Generator().manual_seed(0))
    try:
        expected: Tensor = cast(Any, original).forward(module, x)
        return same_values(module(x), expected)
    except Exception:  # a module that is called in another way is not of the usual form
        return False
