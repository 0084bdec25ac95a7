"""Where a step's old log-probabilities come from: the samples themselves, or a pass of their own."""

from __future__ import annotations

from gspo.algorithms.stats import Stat
from gspo.groups import GroupBatch
from gspo.models.precision import in_full_precision
from gspo.trainer.run import Run
from gspo.trainer.stages import add_log_probs

__all__ = ["add_old_log_probs"]

# Another order of the same float32 sums differs by about 1e-5 nats; other weights, or a sampler that computes the
# model in another way, by far more.
_TOLERANCE = 1e-3


def add_old_log_probs(run: Run, batch: GroupBatch) -> dict[str, Stat]:
    """`old_log_probs`, as `algorithm.rollout_correction.bypass_mode` asks.

    Undecided (null), a process compares its first batch: where the log-probabilities that came with the samples are
    those of the policy, they serve, in that batch and from then on, and the pass over every batch is saved. Products in
    16 bits are rounded in other places in sampling than in training: there they never serve undecided, since a
    comparison so close could end otherwise in a process that resumes.
    """
    config = run.config
    bypass = config.algorithm.rollout_correction.bypass_mode
    if config.algorithm.rollout_correction.active or config.shares_backbone:
        bypass = False
    if bypass is None:
        bypass = run.samples_serve if in_full_precision(run.actor.policy.model) else False
    stats: dict[str, Stat] = {}
    if bypass is not True:
        stats = add_log_probs(batch, run.actor.policy, config)
    if bypass is None:
        drift = (batch["old_log_probs"] - batch["rollout_log_probs"]).abs() * batch["response_mask"]
        furthest = float(drift.max())
        bypass = run.samples_serve = furthest <= _TOLERANCE
        if not bypass:
            run.console.notice(
                f"log-probabilities of the samples differ from the policy's by up to {furthest:.1g} nats, so that the "
                "old ones are computed anew in every step (algorithm.rollout_correction.bypass_mode=true takes the "
                "samples' all the same)"
            )
    if not bypass:
        return stats
    batch["old_log_probs"] = batch["rollout_log_probs"]
    return {}  # whatever step it was: a resumed run logs what an uninterrupted one does
