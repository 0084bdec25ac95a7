"""Masked sums and means, and the one function that turns a per-token loss into a scalar.

Masks are 0/1 of any dtype. A value under a zero, NaN and infinity included, reaches neither the value nor the
gradient. A mask without a one gives 0, not NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = [
    "LossAggMode",
    "agg_loss",
    "at_least_float32",
    "masked_mean",
    "masked_sum",
    "masked_var",
    "masked_whiten",
    "zero_masked",
]

LossAggMode = Literal["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]

# Under the root of a variance, so that a constant row whitens to 0 instead of 0/0. verl's value.
_VARIANCE_EPSILON = 1e-8


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32, or in the wider type that they have: sums of integers and of 16 bits go wrong."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def zero_masked(values: Tensor, mask: Tensor) -> Tensor:
    """`values` where `mask` is one, and an exact 0 (value and gradient) elsewhere."""
    return torch.where(mask.bool(), values, 0.0)


def masked_sum(values: Tensor, mask: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Sum of `values` where `mask` is one, over `axis` or everything."""
    kept = zero_masked(values, mask)
    return kept.sum() if axis is None else kept.sum(dim=axis)


def masked_mean(values: Tensor, mask: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Mean of `values` where `mask` is one, over `axis` or everything; 0 where no element is one."""
    ones = mask.bool()
    count = ones.sum() if axis is None else ones.sum(dim=axis)
    return masked_sum(values, mask, axis) / count.clamp(min=1)


def masked_var(values: Tensor, mask: Tensor, unbiased: bool = True) -> Tensor:
    """Variance of `values` where `mask` is one; 0 with fewer than two elements (one, if `unbiased` is false)."""
    return _moments(values, mask, unbiased)[2]


def masked_whiten(
    values: Tensor, mask: Tensor, shift_mean: bool = True, sum_over_ranks: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Scales `values` to mean 0 and variance 1 (unbiased) over the mask, 0 elsewhere.

    Args:
        values: any shape.
        mask: the same shape.
        shift_mean: whether the mean is taken away; if not, only the scale changes.
        sum_over_ranks: adds a number up over the ranks that hold parts of the batch; None: this is all of it.
    """
    mean, centred, variance = _moments(values, mask, True, sum_over_ranks)
    whitened = centred * torch.rsqrt(variance + _VARIANCE_EPSILON)
    return zero_masked(whitened if shift_mean else whitened + mean, mask)


def _moments(
    values: Tensor, mask: Tensor, unbiased: bool, sum_over_ranks: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance over the mask, with the distances from that mean (those elsewhere are of no use) in between."""
    total = sum_over_ranks or (lambda part: part)
    count = total(mask.bool().sum())
    mean = total(masked_sum(values, mask)) / count.clamp(min=1)
    centred = zero_masked(values, mask) - mean
    return mean, centred, total(masked_sum(centred.square(), mask)) / (count - int(unbiased)).clamp(min=1)


def agg_loss(
    loss_mat: Tensor,
    loss_mask: Tensor,
    loss_agg_mode: str,
    dp_size: int = 1,
    batch_num_tokens: Tensor | float | None = None,
    global_batch_size: Tensor | float | None = None,
    loss_scale_factor: float | None = None,
) -> Tensor:
    """Aggregates a per-token loss into a scalar.

    With N tokens and B sequences in the whole optimizer batch, n_i tokens in sequence i and L the masked losses:

        token-mean               sum L / N
        token-sum                sum L                                             (grows with the batch)
        seq-mean-token-sum       sum_i (sum_t L_it) / B
        seq-mean-token-mean      sum_i (sum_t L_it / n_i) / B
        seq-mean-token-sum-norm  sum_i (sum_t L_it) / B / loss_scale_factor        (Dr. GRPO, arXiv 2503.20783)

    When the normalisers are the optimizer batch's, the losses of its micro-batches add up to the batch's loss, however
    it is split. When they are not given, the tensors are taken to be the whole batch.

    Args:
        loss_mat: losses, (sequences, tokens).
        loss_mask: which tokens count, the same shape. A sequence without a token does not count in B (as in verl).
        loss_agg_mode: one of the five above.
        dp_size: number of data-parallel ranks whose gradients are averaged; the loss is multiplied by it, so that the
            average is the batch's gradient.
        batch_num_tokens: N of the batch over all ranks; needed by token-mean when `dp_size` > 1.
        global_batch_size: B of the batch over all ranks; needed by the seq modes when `dp_size` > 1.
        loss_scale_factor: tokens, for seq-mean-token-sum-norm; the tensors' width where not given, which depends on
            the padding: give a constant when micro-batches are trimmed.

    Raises:
        ValueError: unknown mode, shapes that differ, or a normaliser is missing or not positive.
    """
    if loss_agg_mode not in get_args(LossAggMode):
        raise ValueError(f"Invalid loss_agg_mode: {loss_agg_mode}. Choose one of {list(get_args(LossAggMode))}")
    if loss_mat.shape != loss_mask.shape:
        raise ValueError(f"loss_mat has shape {tuple(loss_mat.shape)}, but loss_mask {tuple(loss_mask.shape)}")
    if loss_agg_mode == "token-sum":
        return masked_sum(loss_mat, loss_mask) * dp_size
    num_tokens = loss_mask.bool().sum(dim=-1)  # (B,)
    if loss_agg_mode == "token-mean":
        count = _normaliser("batch_num_tokens", batch_num_tokens, num_tokens.sum(), dp_size)
        return masked_sum(loss_mat, loss_mask) / count * dp_size
    count = _normaliser("global_batch_size", global_batch_size, (num_tokens > 0).sum(), dp_size)
    if loss_agg_mode == "seq-mean-token-mean":
        return masked_mean(loss_mat, loss_mask, axis=-1).sum() / count * dp_size
    loss = masked_sum(loss_mat, loss_mask) / count * dp_size
    if loss_agg_mode == "seq-mean-token-sum-norm":
        scale = loss_mask.shape[-1] if loss_scale_factor is None else loss_scale_factor
        if scale <= 0:
            raise ValueError(f"loss_scale_factor must be positive, got {scale}")
        return loss / scale
    return loss


def _normaliser(name: str, given: Tensor | float | None, own: Tensor, dp_size: int) -> Tensor | float:
    """The count to divide by, at least 1: a batch with nothing in it has the loss 0."""
    if given is None:
        if dp_size > 1:
            raise ValueError(f"(global) {name} is required when dp_size > 1, got dp_size={dp_size}")
        return own.clamp(min=1)
    return given.clamp(min=1) if isinstance(given, Tensor) else max(given, 1)
