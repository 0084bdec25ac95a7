"""Advantages of whole responses, measured against the other responses to the same prompt.

One scalar a response, R_i = the sum of its token-level rewards, becomes one advantage, laid over its written tokens:
every function returns (advantages, returns), the same tensor twice, (sequences, tokens), 0 under the mask. Signatures
and values are verl's; a reward counts at any position of its row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gspo.algorithms.aggregation import at_least_float32, masked_whiten, zero_masked
from gspo.algorithms.grouping import group_stats
from gspo.algorithms.registry import AdvantageEstimator, register_adv_est
from gspo.algorithms.settings import read_setting

__all__ = [
    "compute_gdpo_outcome_advantage",
    "compute_grpo_outcome_advantage",
    "compute_grpo_passk_outcome_advantage",
    "compute_grpo_vectorized_outcome_advantage",
    "compute_opo_outcome_advantage",
    "compute_reinforce_plus_plus_baseline_outcome_advantage",
    "compute_rloo_outcome_advantage",
    "compute_rloo_vectorized_outcome_advantage",
]


def _over_tokens(advantage: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
    advantages = zero_masked(advantage.unsqueeze(-1).expand(response_mask.shape), response_mask)
    return advantages, advantages


@register_adv_est(AdvantageEstimator.GRPO)
@register_adv_est(AdvantageEstimator.GRPO_VECTORIZED)
@torch.no_grad()
def compute_grpo_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,  # noqa: ARG001 (verl's signature)
) -> tuple[Tensor, Tensor]:
    """GRPO: A_i = (R_i - mean(R)) / (std(R) + epsilon) (arXiv 2402.03300, section 4.1.2; std unbiased).

    A group of one keeps mean 0 and std 1: its advantage is its reward. A group of equal rewards has advantage 0.

    Args:
        token_level_rewards: (sequences, tokens).
        response_mask: the same shape.
        index: label of each row's group: integers, strings or any hashable. (sequences,)
        epsilon: added to the standard deviation.
        norm_adv_by_std_in_grpo: whether to divide by it; Dr. GRPO (arXiv 2503.20783) does not.
        config: not read.
    """
    scores = at_least_float32(token_level_rewards).sum(dim=-1)
    group = group_stats(scores, index)
    alone = group.count == 1
    centred = torch.where(alone, scores, group.deviation)
    if norm_adv_by_std_in_grpo:
        centred = centred / (torch.where(alone, 1.0, group.std) + epsilon)
    return _over_tokens(centred, response_mask)


compute_grpo_vectorized_outcome_advantage = compute_grpo_outcome_advantage


@register_adv_est(AdvantageEstimator.GDPO)
@torch.no_grad()
def compute_gdpo_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    reward_terms: Tensor | None = None,
    reward_weights: Tensor | None = None,
    config: Any = None,  # noqa: ARG001 (verl's signature)
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """GDPO: each reward is normalised within its group, then their weighted sum over the batch (arXiv 2601.05242).

    A_ik = (R_ik - mean_k) / (std_k + epsilon) as in GRPO, S_i = sum_k w_ik A_ik, and the advantage is
    (S_i - mean(S)) / (std(S) + epsilon) over the responses of the batch (std unbiased). Rewards that differ in scale,
    such as a discriminator's score and a format check, then count by their weights only.

    Args:
        token_level_rewards: their sum, for where there are no terms: the one reward. (sequences, tokens)
        response_mask: the same shape.
        index: label of each row's group. (sequences,)
        epsilon: added to every standard deviation.
        norm_adv_by_std_in_grpo: whether each reward is divided by its group's standard deviation.
        reward_terms: the rewards that were added up. (sequences, rewards)
        reward_weights: their weights; 0 where a row has no such reward; all 1 if None. (sequences, rewards)
        config: not read.
        sum_over_ranks: adds a number up over the ranks that hold parts of the batch; None: this is all of it.
    """
    rewards = at_least_float32(token_level_rewards)
    terms = rewards.sum(dim=-1, keepdim=True) if reward_terms is None else at_least_float32(reward_terms)
    weights = torch.ones_like(terms) if reward_weights is None else reward_weights
    total = torch.zeros_like(terms[:, 0])
    for scores, weight in zip(terms.unbind(1), weights.unbind(1), strict=True):
        group = group_stats(scores, index)
        alone = group.count == 1
        centred = torch.where(alone, scores, group.deviation)
        if norm_adv_by_std_in_grpo:
            centred = centred / (torch.where(alone, 1.0, group.std) + epsilon)
        total = total + weight * centred
    deviation, std = _deviation_and_std(total, sum_over_ranks)
    return _over_tokens(deviation / (std + epsilon), response_mask)


def _deviation_and_std(values: Tensor, sum_over_ranks: Callable[[Tensor], Tensor] | None) -> tuple[Tensor, Tensor]:
    """Distance from the batch's mean, and the batch's standard deviation (unbiased). (responses,) both"""
    if sum_over_ranks is None:
        batch = group_stats(values, np.zeros(len(values), dtype=np.int64))
        return batch.deviation, batch.std
    count = sum_over_ranks(torch.tensor(float(len(values)), dtype=torch.float64))
    deviation = values.double() - sum_over_ranks(values.double().sum()) / count
    variance = sum_over_ranks(deviation.square().sum()) / (count - 1).clamp(min=1)
    return deviation.to(values), variance.sqrt().to(values)


@register_adv_est(AdvantageEstimator.GRPO_PASSK)
@torch.no_grad()
def compute_grpo_passk_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,
    norm_adv_by_std_in_grpo: bool = True,
    config: Any = None,
    **kwargs: Any,  # noqa: ARG001 (verl's signature)
) -> tuple[Tensor, Tensor]:
    """Pass@k: only the best response of a group has an advantage, best minus second best (arXiv 2503.19595).

    Divided by (std + epsilon) unless `norm_adv_by_std_in_grpo`, here or in `config`, is false. Of several best, none
    has an advantage.

    Raises:
        ValueError: a group has one response only.
    """
    scores = at_least_float32(token_level_rewards).sum(dim=-1)
    group = group_stats(scores, index)
    if bool((group.count < 2).any()):
        row = int((group.count < 2).nonzero()[0])
        raise ValueError(
            f"Pass@k requires at least 2 samples per group. Got 1 for group {index[row]}; set rollout.n to 2 or more"
        )
    # Rows sorted by group, and by falling score within it: the best row comes first, the second best after it.
    by_score = scores.argsort(descending=True, stable=True)
    order = by_score[group.numbers[by_score].argsort(stable=True)]
    starts = torch.searchsorted(group.numbers[order], torch.arange(group.num_groups, device=scores.device))
    best, second = order[starts], order[starts + 1]
    gain = scores[best] - scores[second]
    if norm_adv_by_std_in_grpo and bool(read_setting(config, "norm_adv_by_std_in_grpo", True)):
        gain = gain / (group.std[best] + epsilon)
    return _over_tokens(torch.zeros_like(scores).index_copy(0, best, gain), response_mask)


@register_adv_est(AdvantageEstimator.RLOO)
@register_adv_est(AdvantageEstimator.RLOO_VECTORIZED)
@torch.no_grad()
def compute_rloo_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,  # noqa: ARG001 (verl's signature)
    config: Any = None,  # noqa: ARG001
    **kwargs: Any,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """RLOO: A_i = R_i - mean of the other responses' rewards (arXiv 2402.14740). A group of one keeps R_i."""
    scores = at_least_float32(token_level_rewards).sum(dim=-1)
    group = group_stats(scores, index)
    others = group.deviation * group.count / (group.count - 1).clamp(min=1)
    return _over_tokens(torch.where(group.count == 1, scores, others), response_mask)


compute_rloo_vectorized_outcome_advantage = compute_rloo_outcome_advantage


@register_adv_est(AdvantageEstimator.OPO)
@torch.no_grad()
def compute_opo_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,  # noqa: ARG001 (verl's signature)
    config: Any = None,  # noqa: ARG001
    **kwargs: Any,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """OPO: A_i = R_i - (sum_j |y_j| R_j) / (sum_j |y_j|), the length-weighted mean (arXiv 2505.23585).

    A group of one keeps R_i.
    """
    scores = at_least_float32(token_level_rewards).sum(dim=-1)
    group = group_stats(scores, index)
    length = response_mask.bool().sum(dim=-1).to(scores.dtype)
    zeros = scores.new_zeros(group.num_groups)
    weighted = zeros.index_add(0, group.numbers, length * group.deviation)
    total = zeros.index_add(0, group.numbers, length).clamp(min=1)
    centred = group.deviation - (weighted / total)[group.numbers]
    return _over_tokens(torch.where(group.count == 1, scores, centred), response_mask)


@register_adv_est(AdvantageEstimator.REINFORCE_PLUS_PLUS_BASELINE)
@torch.no_grad()
def compute_reinforce_plus_plus_baseline_outcome_advantage(
    token_level_rewards: Tensor,
    response_mask: Tensor,
    index: np.ndarray,
    epsilon: float = 1e-6,  # noqa: ARG001 (verl's signature)
    config: Any = None,  # noqa: ARG001
    sum_over_ranks: Callable[[Tensor], Tensor] | None = None,
    **kwargs: Any,  # noqa: ARG001
) -> tuple[Tensor, Tensor]:
    """REINFORCE++-baseline: R_i - mean(R), then whitened over all tokens of the batch (arXiv 2501.03262).

    A group of one has mean 0.
    """
    scores = at_least_float32(token_level_rewards).sum(dim=-1)
    group = group_stats(scores, index)
    tokens, _ = _over_tokens(torch.where(group.count == 1, scores, group.deviation), response_mask)
    advantages = masked_whiten(tokens, response_mask, sum_over_ranks=sum_over_ranks)
    return advantages, advantages
