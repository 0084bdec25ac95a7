"""The critic's clipped value loss and the variance that its values explain."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gspo.algorithms.aggregation import agg_loss, zero_masked
from gspo.algorithms.stats import Mean, Stat

__all__ = ["compute_value_loss", "explained_variance", "explained_variance_sums"]

_ERROR, _ERROR_SQUARED = "critic/vf_error/mean", "critic/vf_error/mean_square"
_RETURN, _RETURN_SQUARED = "critic/vf_target/mean", "critic/vf_target/mean_square"


def compute_value_loss(
    vpreds: Tensor,
    returns: Tensor,
    values: Tensor,
    response_mask: Tensor,
    cliprange_value: float,
    loss_agg_mode: str = "token-mean",
    dp_size: int = 1,
    batch_num_tokens: Tensor | float | None = None,
    global_batch_size: Tensor | float | None = None,
    loss_scale_factor: float | None = None,
) -> tuple[Tensor, Mean]:
    """PPO's value loss, clipped around the values before the update (the released code of arXiv 1707.06347).

        loss = 1/2 max((V - R)^2, (clip(V, V_old - c, V_old + c) - R)^2)

    Args:
        vpreds: values of the critic that is trained, with gradient. (sequences, tokens)
        returns: targets R, the same shape.
        values: V_old, the same shape.
        response_mask: which tokens count.
        cliprange_value: c.
        loss_agg_mode, dp_size, batch_num_tokens, global_batch_size, loss_scale_factor: see `agg_loss`.

    Returns:
        The loss, and the fraction of tokens whose clipped error is the larger.

    Raises:
        ValueError: a negative clip range, or what `agg_loss` raises.
    """
    if cliprange_value < 0:
        raise ValueError(f"cliprange_value cannot be negative, got {cliprange_value}")
    vpreds = zero_masked(vpreds, response_mask)
    returns, values = zero_masked(returns.detach(), response_mask), zero_masked(values.detach(), response_mask)
    near = torch.maximum(torch.minimum(vpreds, values + cliprange_value), values - cliprange_value)
    plain, clipped = (vpreds - returns).square(), (near - returns).square()
    loss = 0.5 * agg_loss(
        torch.maximum(plain, clipped),
        response_mask,
        loss_agg_mode,
        dp_size=dp_size,
        batch_num_tokens=batch_num_tokens,
        global_batch_size=global_batch_size,
        loss_scale_factor=loss_scale_factor,
    )
    return loss, Mean.masked((clipped > plain).float(), response_mask)


def explained_variance_sums(values: Tensor, returns: Tensor, response_mask: Tensor) -> dict[str, Stat]:
    """Four means from which `explained_variance` follows once they are merged over parts. Tensors (sequences, tokens).

    In float64: a variance is a small difference of large sums.
    """
    targets = zero_masked(returns.detach(), response_mask).double()
    errors = targets - zero_masked(values.detach(), response_mask).double()
    return {
        _ERROR: Mean.masked(errors, response_mask),
        _ERROR_SQUARED: Mean.masked(errors.square(), response_mask),
        _RETURN: Mean.masked(targets, response_mask),
        _RETURN_SQUARED: Mean.masked(targets.square(), response_mask),
    }


def explained_variance(sums: Mapping[str, Stat]) -> float:
    """1 - var(R - V) / var(R), from merged `explained_variance_sums`; 0 where the returns do not vary.

    verl's `critic/vf_explained_var`. 1 is a perfect critic, 0 one that knows the mean only.
    """
    error, target = (
        float(sums[squared]) - float(sums[mean]) ** 2
        for mean, squared in ((_ERROR, _ERROR_SQUARED), (_RETURN, _RETURN_SQUARED))
    )
    return 1 - error / target if target > 0 else 0.0
