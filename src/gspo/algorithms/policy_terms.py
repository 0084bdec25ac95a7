"""What the policy losses share: checked inputs, ratios that cannot overflow, the clip, the final sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gspo.algorithms.aggregation import agg_loss, zero_masked
from gspo.algorithms.settings import read_setting
from gspo.algorithms.stats import Mean, Stat

__all__ = ["MAX_LOG_SEQ_RATIO", "MAX_LOG_TOKEN_RATIO", "PolicyTerms", "clip_objective"]

# exp(10) = 22026: with a negative advantage nothing else bounds a sequence ratio from above, and one diverged sequence
# would drown the batch. The gradient is zero beyond it. verl's value.
MAX_LOG_SEQ_RATIO = 10.0
# exp(20) = 4.9e8, far from float32's overflow at exp(88). verl's value.
MAX_LOG_TOKEN_RATIO = 20.0


@dataclass(frozen=True)
class PolicyTerms:
    """The inputs of a policy loss, zero wherever the mask is zero, in value and in gradient. All (sequences, tokens).

    Attributes:
        log_prob: log-probabilities under the policy that is trained.
        log_ratio: log_prob - old_log_prob.
        advantages: as given.
        mask: which tokens count, bool.
        weights: rollout correction weights; None means ones.
    """

    log_prob: Tensor
    log_ratio: Tensor
    advantages: Tensor
    mask: Tensor
    weights: Tensor | None

    @classmethod
    def of(
        cls,
        old_log_prob: Tensor,
        log_prob: Tensor,
        advantages: Tensor,
        response_mask: Tensor,
        rollout_is_weights: Tensor | None,
    ) -> PolicyTerms:
        """Checks the shapes and clears the values outside of the mask.

        Raises:
            ValueError: a tensor's shape is not the mask's.
        """
        named = {"old_log_prob": old_log_prob, "log_prob": log_prob, "advantages": advantages}
        if rollout_is_weights is not None:
            named["rollout_is_weights"] = rollout_is_weights
        for name, tensor in named.items():
            if tensor.shape != response_mask.shape:
                raise ValueError(
                    f"{name} has shape {tuple(tensor.shape)}, but response_mask has {tuple(response_mask.shape)}; "
                    "give one value for each token of each response"
                )
        mask = response_mask.bool()
        # Cleared before any arithmetic: clearing the loss alone would leave 0 * NaN in the gradient.
        new, old = zero_masked(log_prob, mask), zero_masked(old_log_prob.detach(), mask)
        weights = None if rollout_is_weights is None else zero_masked(rollout_is_weights.detach(), mask)
        return cls(new, new - old, zero_masked(advantages.detach(), mask), mask, weights)

    @property
    def written(self) -> Tensor:
        """Which sequences have a token that counts. (sequences,)"""
        return self.mask.any(dim=-1)

    @property
    def token_ratio(self) -> Tensor:
        """pi / pi_old of each token. (sequences, tokens)"""
        return self.log_ratio.clamp(-MAX_LOG_TOKEN_RATIO, MAX_LOG_TOKEN_RATIO).exp()

    def loss(self, losses: Tensor, loss_agg_mode: str, config: Any) -> Tensor:
        """Weighs the per-token losses and aggregates them with the optimizer batch's normalisers."""
        weighted = losses if self.weights is None else losses * self.weights
        info = dict(read_setting(config, "global_batch_info", {}))
        if info.get("loss_scale_factor") is None:
            info["loss_scale_factor"] = read_setting(config, "loss_scale_factor")
        return agg_loss(weighted, self.mask, loss_agg_mode, **info)

    def metrics(self, clipped: Tensor, clipped_lower: Tensor, log_ratio: Tensor | None = None) -> dict[str, Stat]:
        """The three figures that every policy loss reports, means over tokens.

        Args:
            clipped: where the clip is active, bool. (sequences, tokens)
            clipped_lower: where the bound for negative advantages is active, bool. (sequences, tokens)
            log_ratio: what `actor/ppo_kl` is the negative mean of; the plain log-ratio if not given.
        """
        drift = self.log_ratio if log_ratio is None else log_ratio
        return {
            "actor/pg_clipfrac": Mean.masked(clipped.float(), self.mask),
            "actor/ppo_kl": Mean.masked(-drift, self.mask),
            "actor/pg_clipfrac_lower": Mean.masked(clipped_lower.float(), self.mask),
        }


def clip_objective(ratio: Tensor, advantages: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The clipped objective's loss, -min(r A, clip(r, 1 - low, 1 + high) A) (PPO, arXiv 1707.06347, eq. 7).

    Returns:
        (losses, where the clip is active and the gradient therefore zero), both the shape of `ratio`.
    """
    plain = -advantages * ratio
    bounded = -advantages * ratio.clamp(1 - low, 1 + high)
    return torch.maximum(plain, bounded), bounded > plain
