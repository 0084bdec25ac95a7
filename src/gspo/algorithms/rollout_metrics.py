"""Figures of rollout correction, under verl's names: of the weights in use, and of what rejection goes by.

A response without a written token counts nowhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gspo.algorithms.aggregation import masked_mean, zero_masked
from gspo.algorithms.stats import Derived, Max, Mean, Min, Stat

__all__ = ["MAX_LOG_RATIO", "compute_is_metrics", "rejection_metrics"]

# exp(20) = 4.9e8: a product over a long response overflows float32 otherwise. verl's value.
MAX_LOG_RATIO = 20.0


def compute_is_metrics(
    rollout_is_weights: Tensor,
    raw_rollout_is_weights: Tensor,
    log_ratio_for_metrics: Tensor,
    response_mask: Tensor,
    rollout_is: str,
    rollout_is_threshold: float,
    rollout_is_threshold_lower: float | None = None,
) -> dict[str, Stat]:
    """Figures of importance weights.

    Args:
        rollout_is_weights: as they are used. (sequences, tokens)
        raw_rollout_is_weights: the same before they are bounded.
        log_ratio_for_metrics: log pi_train - log pi_rollout, of tokens (sequences, tokens), or their sum over each
            response (sequences, 1) where `rollout_is` is "sequence".
        response_mask: which tokens count. (sequences, tokens)
        rollout_is: "token" or "sequence".
        rollout_is_threshold: upper end of the range.
        rollout_is_threshold_lower: its lower end; None: 1 / upper.

    Returns:
        rollout_is_{mean,std} of the weights in use, over tokens, and rollout_is_eff_sample_size = mean(w)^2 / mean(w^2)
        in (0, 1] (over parts, the tokens' mean of the parts'). Of tokens: rollout_is_{max,min} of the weights in use,
        and rollout_is_ratio_fraction_{high,low} of the raw ones out of range. Where `rollout_is` is "sequence", these
        four are of responses, and of exp(log_ratio_for_metrics), which nothing bounds but exp(20) from above.
        rollout_is_seq_{mean,std,max,min,max_deviation}: of each response's mean weight; its distance from 1 is the
        deviation. rollout_is_seq_fraction_{high,low}: responses whose mean raw weight is out of range.
    """
    upper = rollout_is_threshold
    lower = 1 / upper if rollout_is_threshold_lower is None else rollout_is_threshold_lower
    mask, weights, raw = response_mask.bool(), rollout_is_weights.detach(), raw_rollout_is_weights.detach()
    num_tokens, written = mask.sum(), mask.any(dim=-1)
    if rollout_is == "sequence":
        log_ratio = log_ratio_for_metrics.detach().reshape(len(mask), -1)[:, 0]
        ratio, ratio_counts = log_ratio.clamp(max=MAX_LOG_RATIO).exp(), written
        above, below = log_ratio > math.log(upper), log_ratio < math.log(lower)
    else:
        ratio, ratio_counts, above, below = weights, mask, raw > upper, raw < lower
    mean_square = masked_mean(weights.square(), mask)
    effective = masked_mean(weights, mask).square() / mean_square.clamp(min=torch.finfo(weights.dtype).tiny)
    of_responses = masked_mean(weights, mask, axis=-1)
    raw_of_responses = masked_mean(raw, mask, axis=-1)
    return {
        "rollout_is_mean": Mean.masked(weights, mask),
        "rollout_is_std": _deviation(weights, mask),
        **_extremes("rollout_is", ratio, ratio_counts),
        "rollout_is_ratio_fraction_high": Mean.masked(above.float(), ratio_counts),
        "rollout_is_ratio_fraction_low": Mean.masked(below.float(), ratio_counts),
        "rollout_is_eff_sample_size": Mean(effective * num_tokens, num_tokens),
        **_of_responses("rollout_is", of_responses, written, ideal=1.0),
        "rollout_is_seq_fraction_high": Mean.masked((raw_of_responses > upper).float(), written),
        "rollout_is_seq_fraction_low": Mean.masked((raw_of_responses < lower).float(), written),
    }


def rejection_metrics(
    option: str, values: Tensor, mask: Tensor, lower: float | None, upper: float, of_responses: bool
) -> dict[str, Stat]:
    """Figures of the statistic that an option of `rollout_rs` rejects by.

    Args:
        option: its name.
        values: the statistic of each token; a response's stands at each of its tokens. (sequences, tokens)
        mask: which tokens count, bool.
        lower: the least value that is kept; None: there is no such end.
        upper: the largest.
        of_responses: whether it is a response's.

    Returns:
        rollout_rs_OPTION_{mean,std,max,min,fraction_high,fraction_low} over tokens, the last four over responses where
        it is theirs, the deviation of values brought into the range (from 0 without a lower end);
        rollout_rs_OPTION_seq_{mean,std,max,min,max_deviation,fraction_high,fraction_low} of each response's mean, the
        last with a lower end only.
    """
    name, written = f"rollout_rs_{option}", mask.any(dim=-1)
    means = masked_mean(values, mask, axis=-1)
    each, counts = (means, written) if of_responses else (values, mask)
    least = -math.inf if lower is None else lower
    seq_low = {} if lower is None else {f"{name}_seq_fraction_low": Mean.masked((means < least).float(), written)}
    return {
        f"{name}_mean": Mean.masked(values, mask),
        f"{name}_std": _deviation(values.clamp(0.0 if lower is None else lower, upper), mask),
        **_extremes(name, each, counts),
        f"{name}_fraction_high": Mean.masked((each > upper).float(), counts),
        f"{name}_fraction_low": Mean.masked((each < least).float(), counts),
        **_of_responses(name, means, written, ideal=0.0),
        f"{name}_seq_fraction_high": Mean.masked((means > upper).float(), written),
        **seq_low,
    }


def _of_responses(name: str, means: Tensor, written: Tensor, ideal: float) -> dict[str, Stat]:
    """Figures of one number a response. (sequences,)"""
    return {
        f"{name}_seq_mean": Mean.masked(means, written),
        f"{name}_seq_std": _deviation(means, written, unbiased=True),
        **_extremes(f"{name}_seq", means, written),
        f"{name}_seq_max_deviation": _extremes("", (means - ideal).abs(), written, least=0.0)["_max"],
    }


def _extremes(name: str, values: Tensor, mask: Tensor, least: float = -math.inf) -> dict[str, Stat]:
    """Largest and smallest value over the mask; `least` and infinity where it is empty."""

    def reach(neutral: float) -> Tensor:
        return torch.cat([torch.where(mask, values, neutral).flatten(), values.new_full((1,), neutral)])

    return {f"{name}_max": Max(reach(least).max()), f"{name}_min": Min(reach(math.inf).min())}


def _deviation(values: Tensor, mask: Tensor, unbiased: bool = False) -> Derived:
    """Standard deviation over the mask, of the whole batch however it is cut."""
    kept = zero_masked(values.double(), mask)
    sums = torch.stack([mask.sum().double(), kept.sum(), kept.square().sum()])
    return Derived(sums, _sample_deviation if unbiased else _population_deviation)


def _population_deviation(sums: Tensor) -> float:
    count, total, square = sums.tolist()
    return math.sqrt(max(0.0, square / count - (total / count) ** 2)) if count else 0.0


def _sample_deviation(sums: Tensor) -> float:
    count = float(sums[0])
    return _population_deviation(sums) * math.sqrt(count / (count - 1)) if count > 1 else 0.0
