"""Linear layers on oneDNN's matrix product, on a CPU in float32.

PyTorch multiplies float32 matrices by MKL, which keeps to its older kernels on processors that are not Intel's; oneDNN,
which comes with PyTorch too, uses the widest vectors of any. It also multiplies by weights that have been laid out
beforehand, which pays where few rows meet many weights, as they do in sampling.

Both round in float32. What one order of summation gives differs from the other in the last bits.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["FastLinear", "gradient_of_weight", "linear", "on_cpu_in_float32", "packed_weights", "use_fast_linears"]


def _found() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


_AVAILABLE = _found()


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`functional.linear` without a gradient: rows @ weight.T + bias.

    Args:
        rows: (..., inputs)
        weight: (outputs, inputs), or what `packed_weights` made of it.
        bias: (outputs,)
    """
    if weight.is_mkldnn or _fast(rows, weight):
        product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
        return product
    return functional.linear(rows, weight, bias)


def on_cpu_in_float32(rows: Tensor, weight: Tensor) -> bool:
    """Whether there is something to compute, and where and in what this project's own operations compute."""
    in_float32 = rows.is_cpu and rows.dtype == torch.float32 == weight.dtype and rows.numel() > 0
    return in_float32 and not torch.is_autocast_enabled("cpu")


def _fast(rows: Tensor, weight: Tensor) -> bool:
    return _AVAILABLE and on_cpu_in_float32(rows, weight)


def gradient_of_weight(grad: Tensor, rows: Tensor) -> Tensor:
    """Gradient of a linear layer's weight: grad.T @ rows.

    Args:
        grad: of the outputs. (..., outputs)
        rows: the inputs. (..., inputs)
    """
    grad, rows = grad.flatten(0, -2), rows.flatten(0, -2)
    # oneDNN copies its first factor where it is transposed: that should be the narrower one.
    if grad.shape[1] > rows.shape[1]:
        return linear(rows.t(), grad.t()).t()
    return linear(grad.t(), rows.t())


class FastLinear(nn.Linear):
    """A linear layer whose products run on oneDNN where it can serve them, and as PyTorch's elsewhere.

    Attributes:
        packed: its weight laid out for sampling, while `packed_weights` is open.
    """

    packed: Tensor | None = None

    def forward(self, input: Tensor) -> Tensor:
        if not _fast(input, self.weight):
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            out: Tensor = _Linear.apply(input, self.weight, self.bias)
            return out
        return linear(input, self.laid_out, self.bias)

    @property
    def laid_out(self) -> Tensor:
        """The weight as sampling reads it fastest."""
        return self.weight if self.packed is None else self.packed


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.has_bias = bias is not None
        return linear(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        of_rows = linear(grads[0], weight.t()) if ctx.needs_input_grad[0] else None
        of_weight = gradient_of_weight(grad, rows) if ctx.needs_input_grad[1] else None
        of_bias = grad.sum(0) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return of_rows, of_weight, of_bias


def use_fast_linears(model: nn.Module) -> None:
    """Makes every plain linear layer of `model` a `FastLinear`, in place; names, weights and hooks stay.

    Does nothing where oneDNN is not to be had.
    """
    if not _AVAILABLE:
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear


@contextmanager
@torch.no_grad()
def packed_weights(model: nn.Module) -> Iterator[None]:
    """While open, `model`'s fast linear layers hold a second copy of their weights, laid out for few rows.

    The weights must not change meanwhile. Nothing happens on another device than a CPU.
    """
    layers = [m for m in model.modules() if isinstance(m, FastLinear) and _fast(m.weight, m.weight)]
    for layer in layers:
        layer.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
    try:
        yield
    finally:
        for layer in layers:
            layer.packed = None
