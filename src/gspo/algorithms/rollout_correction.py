"""Corrects for a rollout engine whose probabilities are not the trainer's: weights and masks by pi_train / pi_rollout.

Truncated weights (TIS) bound the ratio from above; a range (as in IcePop) zeroes what lies outside; a rejection mask
(MIS) takes tokens or whole responses out of the loss. All kept apart from the policy ratio: pi_old stays the trainer's
own. Names follow verl. Log-ratios are log pi_train - log pi_rollout, (sequences, tokens); a response without a written
token counts nowhere.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gspo.algorithms.aggregation import masked_mean, masked_sum, zero_masked
from gspo.algorithms.rollout_drift import compute_offpolicy_metrics
from gspo.algorithms.rollout_metrics import MAX_LOG_RATIO, compute_is_metrics, rejection_metrics
from gspo.algorithms.stats import Mean, Stat

__all__ = [
    "compute_rollout_correction_and_rejection_mask",
    "compute_rollout_correction_weights",
    "compute_rollout_rejection_mask",
]

_LEVELS = ("token", "seq_sum", "seq_mean", "seq_max")
_STATISTICS = ("k1", "k2", "k3")
# The largest k1 of a response says nothing of its least one.
_OPTIONS = [f"{level}_{name}" for level in _LEVELS for name in _STATISTICS if (level, name) != ("seq_max", "k1")]


def compute_rollout_correction_weights(
    log_ratio: Tensor,
    response_mask: Tensor,
    rollout_is: Literal["token", "sequence"] | str = "token",
    rollout_is_threshold: str | float = 2.0,
) -> tuple[Tensor, dict[str, Stat]]:
    """Importance weights, of each token or (the product over it) of each response, without gradient.

    Args:
        log_ratio: (sequences, tokens).
        response_mask: the same shape.
        rollout_is: "token" or "sequence".
        rollout_is_threshold: upper bound at which a weight is cut off (TIS); "lower_upper", such as "0.5_2", sets
            weights outside that range to 0 instead.

    Returns:
        Weights, 0 under the mask, (sequences, tokens), and metrics: those of `compute_is_metrics`, and with a lower end
        rollout_is_oob_ratio, the fraction of tokens whose weight was set to 0.

    Raises:
        ValueError: unknown level, or a threshold that does not parse.
    """
    lower, upper = _parse_range("rollout_is_threshold", rollout_is_threshold)
    log_ratio = zero_masked(log_ratio.detach(), response_mask)
    if rollout_is == "sequence":
        log_ratio = log_ratio.sum(dim=-1, keepdim=True)
    elif rollout_is != "token":
        raise ValueError(f"unknown rollout_is {rollout_is!r}; choose 'token' or 'sequence'")
    raw = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp().expand(response_mask.shape)
    bounded = raw.clamp(max=upper) if lower is None else torch.where((raw >= lower) & (raw <= upper), raw, 0.0)
    weights = zero_masked(bounded, response_mask)
    mask = response_mask.bool()
    outside = {} if lower is None else {"rollout_is_oob_ratio": Mean.masked((raw != bounded).float(), mask)}
    return weights, compute_is_metrics(weights, raw, log_ratio, mask, rollout_is, upper, lower) | outside


def compute_rollout_rejection_mask(
    log_ratio: Tensor,
    response_mask: Tensor,
    rollout_rs: str,
    rollout_rs_threshold: str | float,
) -> tuple[Tensor, dict[str, Stat]]:
    """The response mask without the tokens, or responses, on which trainer and rollout engine differ too much.

    Args:
        log_ratio: (sequences, tokens).
        response_mask: the same shape.
        rollout_rs: one or several (with commas) of level_statistic: levels token, seq_sum, seq_mean, seq_max;
            statistics of a token's log-ratio x: k1 = -x, k2 = x^2 / 2, k3 = exp(x) - 1 - x. Several must all accept.
        rollout_rs_threshold: for k1 the range of exp(k1) = pi_rollout / pi_train as "lower_upper", or its upper end
            (lower = 1 / upper); for k2 and k3 the largest value. One for all, or one for each with commas.

    Returns:
        The new mask in the old one's dtype, and metrics: rollout_rs_masked_fraction of tokens,
        rollout_rs_seq_masked_fraction of responses that lost a token, and the same for each option, with those of
        `rollout_metrics.rejection_metrics`.

    Raises:
        ValueError: unknown option, or a threshold that does not parse.
    """
    options = [option.strip() for option in rollout_rs.split(",")]
    thresholds = [part.strip() for part in str(rollout_rs_threshold).split(",")]
    if len(thresholds) == 1:
        thresholds *= len(options)
    if len(thresholds) != len(options):
        raise ValueError(f"rollout_rs has {len(options)} options, but rollout_rs_threshold {len(thresholds)} values")
    mask, log_ratio = response_mask.bool(), zero_masked(log_ratio.detach(), response_mask)
    kept = mask
    metrics: dict[str, Stat] = {}
    for option, threshold in zip(options, thresholds, strict=True):
        values, lower, upper = _statistic(option, threshold, log_ratio, mask)
        accepted = values <= upper if lower is None else (values >= lower) & (values <= upper)
        kept = kept & accepted
        metrics |= _rejected(f"rollout_rs_{option}", accepted, mask)
        metrics |= rejection_metrics(option, values, mask, lower, upper, of_responses=option.startswith("seq"))
    return kept.to(response_mask.dtype), metrics | _rejected("rollout_rs", kept, mask)


def compute_rollout_correction_and_rejection_mask(
    old_log_prob: Tensor,
    rollout_log_prob: Tensor,
    response_mask: Tensor,
    rollout_is: str | None = None,
    rollout_is_threshold: str | float = 2.0,
    rollout_rs: str | None = None,
    rollout_rs_threshold: str | float | None = None,
) -> tuple[Tensor | None, Tensor, dict[str, Stat]]:
    """Weights (None without `rollout_is`), the mask to train with, and metrics with verl's prefix `rollout_corr/`.

    Weights are computed on the given mask, before rejection. The metrics hold `compute_offpolicy_metrics` always.

    Raises:
        ValueError: shapes differ, `rollout_rs` without a threshold, or what the two functions above raise.
    """
    for name, tensor in (("old_log_prob", old_log_prob), ("rollout_log_prob", rollout_log_prob)):
        if tensor.shape != response_mask.shape:
            shapes = f"{tuple(tensor.shape)}, but response_mask {tuple(response_mask.shape)}"
            raise ValueError(f"{name} has shape {shapes}")
    log_ratio = zero_masked(old_log_prob, response_mask) - zero_masked(rollout_log_prob, response_mask)
    metrics = compute_offpolicy_metrics(old_log_prob, rollout_log_prob, response_mask)
    weights, mask = None, response_mask
    if rollout_is is not None:
        weights, more = compute_rollout_correction_weights(log_ratio, response_mask, rollout_is, rollout_is_threshold)
        metrics |= more
    if rollout_rs is not None:
        if rollout_rs_threshold is None:
            raise ValueError(f"rollout_rs={rollout_rs} needs rollout_rs_threshold, such as 2.0 or '0.5_2.0'")
        mask, more = compute_rollout_rejection_mask(log_ratio, response_mask, rollout_rs, rollout_rs_threshold)
        metrics |= more
    return weights, mask, {f"rollout_corr/{name}": stat for name, stat in metrics.items()}


def _parse_range(name: str, given: str | float) -> tuple[float | None, float]:
    """(lower or None, upper) from a number, or from "upper" or "lower_upper"."""
    help_text = f"{name} must be a positive number or 'lower_upper' such as '0.5_2.0', got {given!r}"
    if isinstance(given, bool):
        raise ValueError(help_text)
    try:
        ends = [float(end) for end in str(given).split("_")]
    except ValueError:
        raise ValueError(help_text) from None
    if len(ends) > 2 or not all(math.isfinite(end) and end > 0 for end in ends) or ends != sorted(ends):
        raise ValueError(help_text)
    return (ends[0] if len(ends) == 2 else None), ends[-1]


def _statistic(option: str, threshold: str, log_ratio: Tensor, mask: Tensor) -> tuple[Tensor, float | None, float]:
    """An option's statistic of each token (sequences, tokens), and the least and the largest value that it keeps."""
    if option not in _OPTIONS:
        raise ValueError(f"unknown rollout_rs option {option!r}; choose of {_OPTIONS}")
    level, statistic = option.rsplit("_", 1)
    lower, upper = _parse_range("rollout_rs_threshold", threshold)
    clamped = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    if statistic == "k1":
        values = -clamped
        lower, upper = math.log(1 / upper if lower is None else lower), math.log(upper)
    elif lower is not None:
        raise ValueError(f"rollout_rs_threshold of {option} is one number, the largest value kept; got {threshold!r}")
    else:
        values = 0.5 * clamped.square() if statistic == "k2" else clamped.exp() - 1 - clamped
    if level == "seq_sum":
        values = masked_sum(values, mask, axis=-1).unsqueeze(-1)
    elif level == "seq_mean":
        values = masked_mean(values, mask, axis=-1).unsqueeze(-1)
    elif level == "seq_max":
        values = zero_masked(values, mask).amax(dim=-1, keepdim=True)  # k2 and k3 are never negative
    return values.expand(mask.shape), lower, upper


def _rejected(prefix: str, kept: Tensor, mask: Tensor) -> dict[str, Stat]:
    rejected = mask & ~kept
    return {
        f"{prefix}_masked_fraction": Mean.masked(rejected.float(), mask),
        f"{prefix}_seq_masked_fraction": Mean.masked(rejected.any(dim=-1).float(), mask.any(dim=-1)),
    }
