"""A policy loss and an advantage of one's own, found by name once this file is named in the configuration:

    gspo train ... algorithm.external_modules=[docs/examples/my_loss.py] \
        actor_rollout_ref.actor.policy_loss=asymmetric_reinforce algorithm.adv_estimator=rank

The file is run once, at the start. Tensors are (responses, tokens); `response_mask` says which tokens count.

The facts next to a name say what the rest of the program must know of the function: here that the loss does not clip,
is averaged over responses, and that a response of advantage zero adds nothing to it, so that it need not be run. A fact
that is left out has the default of `gspo.methods.PolicyLoss` or `gspo.methods.Advantage`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from gspo.algorithms import Mean, Stat, agg_loss, register_advantage, register_policy_loss


@register_policy_loss(
    "asymmetric_reinforce",
    clip=None,
    aggregation="seq-mean-token-mean",
    zero_advantage_is_zero=True,
    zero_advantage_never_clips=True,
)
def asymmetric_reinforce(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """REINFORCE in which bad responses count half: -A log pi, halved where A < 0.

    `config` holds the numbers of `actor_rollout_ref.actor` (clip_ratio, ...) and, as `global_batch_info`, the
    normalisers of the whole optimizer batch, with which micro-batches add up to the batch.
    """
    weight = torch.where(advantages < 0, 0.5, 1.0)
    if rollout_is_weights is not None:
        weight = weight * rollout_is_weights
    loss = agg_loss(-weight * advantages * log_prob, response_mask, loss_agg_mode, **config.global_batch_info)
    return loss, {"actor/ppo_kl": Mean.masked(old_log_prob - log_prob.detach(), response_mask)}


@register_advantage("rank", min_responses=2)
def rank_advantage(token_level_rewards: Tensor, response_mask: Tensor, index: np.ndarray) -> tuple[Tensor, Tensor]:
    """The share of the group's responses that score worse, less the share that score better: in [-1, 1].

    An advantage names the arguments that it wants: of token_level_rewards, response_mask, index (the number of each
    row's group), values, gamma, lam, norm_adv_by_std_in_grpo and config (`algorithm`). It returns advantages and
    returns.
    """
    scores = token_level_rewards.sum(-1)
    group = torch.as_tensor(index, device=scores.device)
    same = group[:, None] == group[None, :]
    gap = (scores[:, None] - scores[None, :]).sign() * same
    advantages = (gap.sum(-1) / same.sum(-1))[:, None] * response_mask
    return advantages, advantages
