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
from torch.nn.grad import conv2d_weight

__all__ = [
    "FastLinear",
    "Packs",
    "gradient_of_weight",
    "linear",
    "linear_plus",
    "on_cpu_in_float32",
    "packed_weights",
    "use_fast_linears",
]


def _found() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


_AVAILABLE = _found()

# With so many times more rows than the weight has of either, its gradient is formed faster as that of a convolution of
# one pixel: oneDNN splits the long sum over the rows there, and needs no transposed copies.
_MANY = 8
# An odd number of rows makes it several times slower; the rest behind a multiple of this is added.
_EVEN = 16


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


def linear_plus(rows: Tensor, weight: Tensor, other: Tensor) -> Tensor:
    """rows @ weight.T + other, without a gradient. `other` is of the product's shape and is used up."""
    if _fast(rows, weight):
        total: Tensor = torch.ops.mkldnn._linear_pointwise.binary(rows, other, weight, None, "add")
        return total
    return other.add_(functional.linear(rows, weight))


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
    outputs, inputs = grad.shape[1], rows.shape[1]
    if _fast(rows, grad) and len(rows) >= _MANY * max(outputs, inputs):
        even = len(rows) // _EVEN * _EVEN
        images, upstream = (x[:even].contiguous().view(1, even, 1, -1).permute(0, 3, 1, 2) for x in (rows, grad))
        product = conv2d_weight(images, (outputs, inputs, 1, 1), upstream)[:, :, 0, 0]
        return product.addmm_(grad[even:].t(), rows[even:])
    # oneDNN copies its first factor where it is transposed: that should be the narrower one.
    if outputs > inputs:
        return linear(rows.t(), grad.t()).t()
    return linear(grad.t(), rows.t())


class Packs:
    """A module that multiplies its input by one or several layers' weights at one go in sampling.

    Attributes:
        packed: these weights laid out for it, one behind the other, while `packed_weights` is open.
    """

    packed: Tensor | None = None

    def packed_layers(self) -> tuple[FastLinear, ...]:
        """The layers, of the same input; none where they cannot be had."""
        raise NotImplementedError


class FastLinear(Packs, nn.Linear):
    """A linear layer whose products run on oneDNN where it can serve them, and as PyTorch's elsewhere."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() < 2 or not _fast(input, self.weight):
            return super().forward(input)
        if torch.is_grad_enabled() and (input.requires_grad or self.weight.requires_grad):
            # Flat, so that what the function returns is no view, which a model could not change in place.
            out: Tensor = _Linear.apply(input.flatten(0, -2), self.weight, self.bias)
            return out.view(*input.shape[:-1], -1)
        return linear(input, self.laid_out, self.bias)

    def packed_layers(self) -> tuple[FastLinear, ...]:
        return (self,)

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
    """While open, `model`'s fast layers hold a second copy of their weights, laid out for few rows.

    The weights must not change meanwhile. Nothing happens on another device than a CPU.
    """
    holders: list[Packs] = []
    done: set[FastLinear] = set()
    for module in model.modules():  # each before those within it
        if not isinstance(module, Packs) or module in done:
            continue
        layers = module.packed_layers()
        if layers and all(_fast(layer.weight, layer.weight) for layer in layers):
            weight = torch.cat([layer.weight for layer in layers]) if len(layers) > 1 else layers[0].weight.detach()
            module.packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            holders.append(module)
            done.update(layers)
    try:
        yield
    finally:
        for holder in holders:
            holder.packed = None
