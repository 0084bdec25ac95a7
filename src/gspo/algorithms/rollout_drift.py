"""How far the trainer's probabilities are from the rollout engine's: verl's off-policy metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from gspo.algorithms.aggregation import masked_mean, masked_sum, zero_masked
from gspo.algorithms.stats import Max, Mean, Min, Stat

__all__ = ["compute_offpolicy_metrics"]

# exp(2 * 20) is still a float32: the square of a response's ratio. verl's value.
_MAX_LOG_RATIO = 20.0


def compute_offpolicy_metrics(
    old_log_prob: Tensor, rollout_log_prob: Tensor | None, response_mask: Tensor
) -> dict[str, Stat]:
    """Divergence, perplexities and the variance of the ratio rho = pi_train / pi_rollout.

    Args:
        old_log_prob: the trainer's log-probabilities before the update. (sequences, tokens)
        rollout_log_prob: the rollout engine's, the same shape; None: only the trainer's perplexities are known.
        response_mask: which tokens count. A response without any counts nowhere.

    Returns:
        kl = mean log pi_rollout - log pi_train; k3_kl = mean rho - log rho - 1; chi2_token = mean rho^2 - 1 and
        chi2_seq, the same of whole responses; training_ppl, rollout_ppl, training_log_ppl, rollout_log_ppl, ppl_ratio,
        log_ppl_diff, log_ppl_abs_diff, log_ppl_diff_max, log_ppl_diff_min: perplexities of responses.
    """
    mask = response_mask.bool()
    written = mask.any(dim=-1)
    train = zero_masked(old_log_prob.detach(), mask)
    train_nll = -masked_mean(train, mask, axis=-1)
    if rollout_log_prob is None:
        known = {"training_ppl": train_nll.exp(), "training_log_ppl": train_nll}
        return {name: Mean.masked(values, written) for name, values in known.items()}
    rollout = zero_masked(rollout_log_prob.detach(), mask)
    log_ratio = (train - rollout).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    seq_log_ratio = masked_sum(train - rollout, mask, axis=-1).clamp(-_MAX_LOG_RATIO, _MAX_LOG_RATIO)
    rollout_nll = -masked_mean(rollout, mask, axis=-1)
    difference = train_nll - rollout_nll
    none = difference.new_full((1,), torch.inf)
    tokens = {
        "kl": rollout - train,
        "k3_kl": log_ratio.exp() - log_ratio - 1,
        "chi2_token": (2 * log_ratio).exp() - 1,
    }
    sequences = {
        "chi2_seq": (2 * seq_log_ratio).exp() - 1,
        "training_ppl": train_nll.exp(),
        "training_log_ppl": train_nll,
        "rollout_ppl": rollout_nll.exp(),
        "rollout_log_ppl": rollout_nll,
        "ppl_ratio": difference.exp(),
        "log_ppl_diff": difference,
        "log_ppl_abs_diff": difference.abs(),
    }
    return {
        **{name: Mean.masked(values, mask) for name, values in tokens.items()},
        **{name: Mean.masked(values, written) for name, values in sequences.items()},
        "log_ppl_diff_max": Max(torch.cat([torch.where(written, difference, -torch.inf), -none]).max()),
        "log_ppl_diff_min": Min(torch.cat([torch.where(written, difference, torch.inf), none]).min()),
    }
