"""Policy losses whose ratio is a whole response's: GSPO, its token form, and GMPO.

Each takes tensors (sequences, tokens) and returns (loss, metrics); see `compute_policy_loss_gspo` for the arguments.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo.algorithms.aggregation import masked_mean
from gspo.algorithms.policy_terms import MAX_LOG_SEQ_RATIO, PolicyTerms, clip_objective
from gspo.algorithms.registry import register_policy_loss
from gspo.algorithms.settings import clip_range
from gspo.algorithms.stats import Max, Mean, Min, Stat
from gspo.methods import GEO_MEAN_CLIP, GSPO_CLIP

__all__ = ["compute_policy_loss_geo_mean", "compute_policy_loss_gspo", "compute_policy_loss_gspo_token"]

# Added to a weight before its logarithm is taken: a weight of 0 (a rejected token) counts as 1e-10. verl's value.
_LEAST_WEIGHT = 1e-10


def _gspo_metrics(terms: PolicyTerms, ratio: Tensor, clipped: Tensor, low: float, high: float) -> dict[str, Stat]:
    """Token means under verl's names, and what GSPO is judged by: sequences clipped, the ratio before the clip.

    Args:
        terms: the loss's inputs.
        ratio: s_i, (sequences,).
        clipped: where the clip is active, (sequences, tokens).
        low, high: the clip range, with which `actor/token_clipfrac` says what a token ratio would have clipped.
    """
    written, ratio = terms.written, ratio.detach()
    seq_clipped = clipped.any(dim=-1)  # under the mask advantages are 0, and nothing is clipped
    _, token_clipped = clip_objective(terms.token_ratio.detach(), terms.advantages, low, high)
    # The neutral element means "no sequence here", so that an empty part leaves the extremes of the others alone.
    infinity = ratio.new_full((1,), torch.inf)
    largest = torch.cat([torch.where(written, ratio, -torch.inf), -infinity]).max()
    smallest = torch.cat([torch.where(written, ratio, torch.inf), infinity]).min()
    return {
        **terms.metrics(clipped, torch.zeros_like(clipped)),
        "actor/seq_clipfrac": Mean.masked(seq_clipped.float(), written),
        "actor/token_clipfrac": Mean.masked(token_clipped.float(), terms.mask),
        "actor/seq_ratio/mean": Mean.masked(ratio, written),
        "actor/seq_ratio/min": Min(smallest),
        "actor/seq_ratio/max": Max(largest),
    }


@register_policy_loss("gspo")
def compute_policy_loss_gspo(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """GSPO's clipped objective on the sequence ratio (arXiv 2507.18071, eqs. 5 and 7).

        s_i = exp(mean_t [log pi(y_it) - log pi_old(y_it)])
        loss = -(1/G) sum_i min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i)

    The gradient with respect to every written token of y_i is -s_i A_i / |y_i| / G, and 0 where the clip is active.
    A response's advantage is one number: with advantages (or weights) that vary along a response use
    `compute_policy_loss_gspo_token`; the value is the same, but here every token's gradient is their mean.

    Args:
        old_log_prob: log-probabilities under the policy that defines the update's start. (sequences, tokens)
        log_prob: the same under the policy that is trained, with gradient.
        advantages: constant along each response.
        response_mask: which tokens the policy wrote. A response without any counts nowhere.
        loss_agg_mode: a mode of `agg_loss`; the paper's is seq-mean-token-mean.
        config: clip_ratio_low, clip_ratio_high or clip_ratio, loss_scale_factor, global_batch_info: see
            `PolicyLossSettings`, for which any object with some of these attributes, or a mapping, may stand in.
            Clip range where it sets none: 3e-4 and 4e-4, the paper's.
        rollout_is_weights: rollout correction weights, or None.

    Returns:
        The scalar loss and metrics: actor/pg_clipfrac, actor/ppo_kl and actor/pg_clipfrac_lower (always 0) over tokens,
        actor/seq_clipfrac over responses, actor/token_clipfrac (what token ratios would clip in the same range),
        actor/seq_ratio/{mean,min,max} before the clip.

    Raises:
        ValueError: shapes differ, an unknown mode, or a negative clip range.
    """
    terms = PolicyTerms.of(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights)
    low, high = clip_range(config, *GSPO_CLIP)
    ratio = masked_mean(terms.log_ratio, terms.mask, axis=-1).clamp(max=MAX_LOG_SEQ_RATIO).exp()
    losses, clipped = clip_objective(ratio.unsqueeze(-1), terms.advantages, low, high)
    return terms.loss(losses, loss_agg_mode, config), _gspo_metrics(terms, ratio, clipped, low, high)


@register_policy_loss("gspo_token")
def compute_policy_loss_gspo_token(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """GSPO-token: the sequence ratio in value, the token's own gradient (arXiv 2507.18071, eqs. 13 and 14).

        s_it = sg[s_i] * pi(y_it) / sg[pi(y_it)]

    Advantages may vary along a response. Where they do not, value and gradient are `compute_policy_loss_gspo`'s, which
    also describes arguments, metrics and errors.
    """
    terms = PolicyTerms.of(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights)
    low, high = clip_range(config, *GSPO_CLIP)
    mean_log_ratio = masked_mean(terms.log_ratio.detach(), terms.mask, axis=-1)
    own_gradient = terms.log_prob - terms.log_prob.detach()  # zero in value
    ratio = (mean_log_ratio.unsqueeze(-1) + own_gradient).clamp(max=MAX_LOG_SEQ_RATIO).exp()
    losses, clipped = clip_objective(ratio, terms.advantages, low, high)
    seq_ratio = mean_log_ratio.clamp(max=MAX_LOG_SEQ_RATIO).exp()
    return terms.loss(losses, loss_agg_mode, config), _gspo_metrics(terms, seq_ratio, clipped, low, high)


@register_policy_loss("geo_mean")
def compute_policy_loss_geo_mean(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "seq-mean-token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Stat]]:
    """GMPO: the geometric mean of token ratios that are clipped before the mean (arXiv 2507.20673).

        l_it = sgn(A) min(sgn(A) d_it, sgn(A) clip(d_it, -low, high)),  d_it = log pi - log pi_old
        loss = -(1/G) sum_i A_i exp(mean_t l_it),  A_i = mean_t A_it

    Weights enter as their geometric mean over the response. Clip range where `config` sets none: 0.4 and 0.4, on the
    log-ratio. actor/pg_clipfrac counts the tokens out of range with a positive advantage, actor/pg_clipfrac_lower
    those with a negative one. Otherwise as `compute_policy_loss_gspo`.
    """
    terms = PolicyTerms.of(old_log_prob, log_prob, advantages, response_mask, rollout_is_weights)
    low, high = clip_range(config, *GEO_MEAN_CLIP)
    bounded = terms.log_ratio.clamp(-low, high)
    sign = terms.advantages.sign()
    log_ratio = sign * torch.minimum(sign * terms.log_ratio, sign * bounded)
    ratio = masked_mean(log_ratio, terms.mask, axis=-1).clamp(max=MAX_LOG_SEQ_RATIO).exp()
    advantage = masked_mean(terms.advantages, terms.mask, axis=-1)
    seq_losses = -advantage * ratio  # (sequences,)
    if terms.weights is not None:
        seq_losses = seq_losses * masked_mean((terms.weights + _LEAST_WEIGHT).log(), terms.mask, axis=-1).exp()
    losses = seq_losses.unsqueeze(-1).expand_as(terms.advantages)
    outside = terms.log_ratio != bounded
    metrics = terms.metrics(outside & (terms.advantages > 0), outside & (terms.advantages < 0))
    unweighted = PolicyTerms(terms.log_prob, terms.log_ratio, terms.advantages, terms.mask, None)
    return unweighted.loss(losses, loss_agg_mode, config), metrics
