"""How far the samples' probabilities are from those of the policy that drew them, before it is updated."""

from __future__ import annotations

from torch import Tensor

from gspo.algorithms.stats import Max, Mean
from gspo.groups import GroupBatch
from gspo.trainer.critics import Stats
from gspo.world import World

__all__ = ["SampleCheck", "rollout_drift"]

# Mean of a batch, in nats a token. Rounding in float32 is some 1e-5, and a token that goes to another expert by it is
# one among many; a sampler that runs another model than the trainer is off by far more.
_LIMIT = 1e-2


def rollout_drift(batch: GroupBatch, log_prob: Tensor) -> Stats:
    """How far the probabilities that the samples were drawn with are from those of the policy that drew them."""
    mask = batch["response_mask"]
    drift = (log_prob.exp() - batch["rollout_log_probs"].exp()).abs() * mask
    return {
        "training/rollout_probs_diff_mean": Mean.masked(drift, mask),
        "training/rollout_probs_diff_max": Max(drift.max()),
    }


class SampleCheck:
    """Stops a run whose samples are of another model than is trained.

    Args:
        exact: the sampler computes with the policy's own weights in float32 or wider, so that rounding is all that may
            differ; otherwise nothing is held.
        world: the ranks.
    """

    def __init__(self, exact: bool, world: World) -> None:
        self._exact, self._world = exact, world
        self._off = self._tokens = 0.0

    def add(self, batch: GroupBatch, log_prob: Tensor) -> None:
        """Counts a pass of an optimizer batch.

        Args:
            batch: its responses.
            log_prob: of the policy before any update of this step. (responses, width)
        """
        if self._exact:
            mask = batch["response_mask"]
            self._off += float(((log_prob - batch["rollout_log_probs"]).abs() * mask).sum())
            self._tokens += float(mask.sum())

    def require_same(self, step: int) -> None:
        """Ends an optimizer batch, before its step.

        Raises:
            ValueError: on whatever rank, its samples are not the policy's.
        """
        mean, self._off, self._tokens = self._off / max(self._tokens, 1.0), 0.0, 0.0
        if self._exact and self._world.any(not mean <= _LIMIT):
            raise ValueError(
                f"step {step}: the samples' log-probabilities differ from the policy's by {mean:.2g} nats a token "
                "(training/rollout_probs_diff_mean shows it as probabilities), and rounding would explain 1e-05: the "
                "local engine samples another model than is trained. Set "
                "actor_rollout_ref.model.use_fused_kernels=false; where that does not help, train a model of another "
                "family or set actor_rollout_ref.rollout.name to an engine of yours"
            )
