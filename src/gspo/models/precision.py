"""Mixed precision: matrix products in 16 bits over weights, optimizer states and residual sums in float32.

A weight in bfloat16 keeps 8 bits, so that an update of less than 1/512 of it is lost; in float32 it is kept, while the
products, where a GPU's time goes, run on its bfloat16 units. torch.autocast casts within a decoder's forward pass; the
output head casts for itself (`logits`): its sums and its softmax stay in float32.

Whether a model's passes run so is in the `Compute` of its `Backbone`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn import functional

from gspo.models.cpu.linear import linear

__all__ = [
    "copies_held",
    "mixed_precision",
    "products_of",
    "wide_product",
]

# PyTorch gives a product of 16-bit factors on a GPU in float32 from 2.8 on.
_UNROUNDED = "dtype" in torch.ops.aten.mm.overloads()


def mixed_precision(
    setting: bool | None, dtype: torch.dtype, device: torch.device | str, products: torch.dtype = torch.bfloat16
) -> bool:
    """What `actor_rollout_ref.model.mixed_precision` means for weights of this type on this device.

    Args:
        setting: true, false, or null, which depends on the device.
        dtype: of the weights.
        device: on which they are.
        products: the type that is meant (`mixed_precision_dtype`).

    Raises:
        ValueError: it is asked for with weights of another type than float32, or of a GPU that has no bfloat16.
    """
    if setting and dtype != torch.float32:
        raise ValueError(
            f"actor_rollout_ref.model.mixed_precision=true computes in 16 bits over weights in float32, and these are "
            f"{str(dtype).removeprefix('torch.')}: set actor_rollout_ref.model.dtype=float32, or take it out"
        )
    on_gpu = torch.device(device).type == "cuda"
    supported = not on_gpu or products == torch.float16 or torch.cuda.is_bf16_supported(including_emulation=False)
    if setting and not supported:
        raise ValueError(
            "actor_rollout_ref.model.mixed_precision=true computes in bfloat16, which this GPU does not have: set "
            "actor_rollout_ref.model.mixed_precision_dtype=float16, or mixed_precision=false"
        )
    return on_gpu and supported and dtype == torch.float32 if setting is None else setting


def products_of(dtype: torch.dtype | None, device: torch.device) -> AbstractContextManager[object]:
    """In which a decoder's forward pass runs on this device, with products of this type (None: of the weights')."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def copies_held(device: torch.device) -> AbstractContextManager[object]:
    """While open, the weights that a pass has cast stay cast for the next; they must not change meanwhile.

    Autocast drops its copies where its outermost context ends, so an outer one that casts nothing keeps them. It makes
    copies of weights that can be trained; others it casts in every pass.
    """
    return torch.autocast(device.type, enabled=False)


def wide_product(rows: Tensor, factors: Tensor, dtype: torch.dtype) -> Tensor:
    """rows @ factors.T in float32, without a gradient; the factors are rounded to `dtype` and the sum is not.

    A GPU's units sum so at no cost. The sum is rounded too on a GPU before PyTorch 2.8, as autocast does everywhere.

    Args:
        rows: (rows, inputs)
        factors: (outputs, inputs)
        dtype: of 16 bits.
    """
    rows, factors = rows.to(dtype), factors.to(dtype)
    if not rows.is_cuda:
        return linear(rows.float(), factors.float())
    if _UNROUNDED:
        return torch.mm(rows, factors.t(), out_dtype=torch.float32)
    return functional.linear(rows, factors).float()
