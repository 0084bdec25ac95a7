"""Advantages token by token: recursions that run backwards over each response and step over masked tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from gspo.algorithms.aggregation import at_least_float32, masked_whiten, zero_masked
from gspo.algorithms.registry import AdvantageEstimator, register_adv_est
from gspo.algorithms.settings import read_setting

__all__ = ["compute_gae_advantage_return", "compute_reinforce_plus_plus_outcome_advantage"]


@register_adv_est(AdvantageEstimator.GAE)
@torch.no_grad()
def compute_gae_advantage_return(
    token_level_rewards: Tensor,
    values: Tensor,
    response_mask: Tensor,
    gamma: float | Tensor,
    lam: float | Tensor,
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (arXiv 1506.02438, eq. 16), over the written tokens only.

        delta_t = r_t + gamma V_t' - V_t ;  A_t = delta_t + gamma lambda A_t'       t' = the next written token

    The returns are A + V before the advantages are whitened over the batch. A reward on a masked token is not seen.

    Args:
        token_level_rewards: (sequences, tokens).
        values: the critic's values, the same shape.
        response_mask: the same shape.
        gamma: discount.
        lam: lambda.
        sum_over_ranks: see `masked_whiten`.

    Returns:
        (whitened advantages, returns), 0 under the mask.
    """
    written = response_mask.bool()
    token_level_rewards, values = at_least_float32(token_level_rewards), at_least_float32(values)
    next_value = torch.zeros_like(values[:, 0])
    advantage = torch.zeros_like(next_value)
    backwards = []
    for t in reversed(range(values.shape[1])):
        delta = token_level_rewards[:, t] + gamma * next_value - values[:, t]
        advantage = torch.where(written[:, t], delta + gamma * lam * advantage, advantage)
        next_value = torch.where(written[:, t], values[:, t], next_value)
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1], dim=1)
    whitened = masked_whiten(advantages, response_mask, sum_over_ranks=sum_over_ranks)
    return whitened, zero_masked(advantages + values, response_mask)


@register_adv_est(AdvantageEstimator.REINFORCE_PLUS_PLUS)
@torch.no_grad()
def compute_reinforce_plus_plus_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    config: Any = None,
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    **kwargs: Any,  # noqa: ARG001 (verl's signature)
) -> tuple[Tensor, Tensor]:
    """REINFORCE++: discounted returns, whitened over all tokens of the batch (arXiv 2501.03262).

    Args:
        token_level_rewards: (sequences, tokens).
        response_mask: the same shape; masked tokens neither earn nor discount.
        config: its `gamma` is the discount; 1 where it has none.
        sum_over_ranks: see `masked_whiten`.

    Returns:
        (advantages, returns), 0 under the mask.
    """
    gamma = float(read_setting(config, "gamma", 1.0))
    written = response_mask.bool()
    token_level_rewards = at_least_float32(token_level_rewards)
    running = torch.zeros_like(token_level_rewards[:, 0])
    backwards = []
    for t in reversed(range(token_level_rewards.shape[1])):
        running = torch.where(written[:, t], token_level_rewards[:, t] + gamma * running, running)
        backwards.append(running)
    returns = zero_masked(torch.stack(backwards[::-1], dim=1), response_mask)
    return masked_whiten(returns, response_mask, sum_over_ranks=sum_over_ranks), returns
