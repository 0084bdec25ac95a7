"""Policy losses on token ratios r = pi / pi_old: PPO with dual clip, CISPO, SAPO.

Arguments and errors are those of `gspo.algorithms.sequence_losses.compute_policy_loss_gspo`; metrics are
actor/pg_clipfrac, actor/ppo_kl and actor/pg_clipfrac_lower, means over tokens. Log-ratios are clamped to +-20.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo.algorithms.policy_terms import MAX_LOG_TOKEN_RATIO, PolicyTerms, clip_objective
from gspo.algorithms.registry import register_policy_loss
from gspo.algorithms.settings import clip_range, read_setting
from gspo.algorithms.stats import Stat
from gspo.methods import CISPO_CLIP, PPO_CLIP

__all__ = ["compute_policy_loss_cispo", "compute_policy_loss_sapo", "compute_policy_loss_vanilla"]

_DUAL_CLIP = 3.0  # arXiv 1912.09729
# SAPO, arXiv 2511.20347.
_TAU_POS = 1.0
_TAU_NEG = 1.05


@register_policy_loss("vanilla")
@register_policy_loss("ppo")
def compute_policy_loss_vanilla(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """PPO's clipped objective (arXiv 1707.06347, eq. 7) with the dual clip (arXiv 1912.09729).

        loss = -min(r A, clip(r, 1 - low, 1 + high) A), and no more than -c A where A < 0

    Clip range where `config` sets none: 0.2 and 0.2; c = 3. actor/pg_clipfrac_lower counts where c is active.

    Raises:
        ValueError: clip_ratio_c is not greater than 1.
    """
    terms = PolicyTerms.of(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights)
    low, high = clip_range(config, *PPO_CLIP)
    bound = float(read_setting(config, "clip_ratio_c", _DUAL_CLIP))
    if bound <= 1:
        raise ValueError(f"clip_ratio_c bounds the ratio from above and must be greater than 1, got {bound}")
    losses, clipped = clip_objective(terms.token_ratio, terms.advantages, low, high)
    most = -terms.advantages * bound
    negative = terms.advantages < 0
    clipped_lower = negative & (losses > most)
    losses = torch.where(negative, torch.minimum(losses, most), losses)
    return terms.loss(losses, loss_agg_mode, config), _metrics(terms, clipped, clipped_lower)


@register_policy_loss("cispo")
def compute_policy_loss_cispo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """CISPO: the ratio is a weight that is clipped, never a gradient that is cut (arXiv 2506.13585).

        loss = -sg[clip(r, 1 - low, 1 + high)] A log pi

    Clip range where `config` sets none: 1 and 4, that is weights of 0 to 5. actor/pg_clipfrac counts clipped weights.
    """
    terms = PolicyTerms.of(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights)
    low, high = clip_range(config, *CISPO_CLIP)
    ratio = terms.token_ratio.detach()
    weight = ratio.clamp(1 - low, 1 + high)
    clipped = ratio != weight
    losses = -weight * terms.advantages * terms.log_prob
    return terms.loss(losses, loss_agg_mode, config), _metrics(terms, clipped, torch.zeros_like(clipped))


@register_policy_loss("sapo")
def compute_policy_loss_sapo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """SAPO: a smooth gate in the clip's place (arXiv 2511.20347).

        loss = -(4 / tau) sigmoid(tau (r - 1)) A,  tau = tau_pos where A > 0, else tau_neg

    Temperatures where `config` sets none: 1.0 and 1.05. Nothing is clipped: both clip fractions are 0.

    Raises:
        ValueError: a temperature is not positive.
    """
    terms = PolicyTerms.of(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights)
    tau_pos = float(read_setting(config, "tau_pos", _TAU_POS))
    tau_neg = float(read_setting(config, "tau_neg", _TAU_NEG))
    if tau_pos <= 0 or tau_neg <= 0:
        raise ValueError(f"tau_pos and tau_neg must be positive, got {tau_pos} and {tau_neg}")
    tau = torch.full_like(terms.advantages, tau_neg).masked_fill(terms.advantages > 0, tau_pos)
    losses = -torch.sigmoid(tau * (terms.token_ratio - 1)) * (4 / tau) * terms.advantages
    nowhere = torch.zeros_like(terms.mask)
    return terms.loss(losses, loss_agg_mode, config), _metrics(terms, nowhere, nowhere)


def _metrics(terms: PolicyTerms, clipped: Tensor, clipped_lower: Tensor) -> dict[str, Stat]:
    return terms.metrics(clipped, clipped_lower, terms.log_ratio.clamp(-MAX_LOG_TOKEN_RATIO, MAX_LOG_TOKEN_RATIO))
