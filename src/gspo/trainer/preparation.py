"""What the updates of a step need, all of it from before them: log-probabilities, values, rewards, advantages."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from gspo.algorithms import compute_rollout_correction_and_rejection_mask
from gspo.algorithms.kl import AdaptiveKLController, FixedKLController
from gspo.algorithms.stats import merge_stats
from gspo.checkpoint import Checkpoint, CheckpointError, Part, Stateful, digest
from gspo.config.schema import AlgorithmConfig, RolloutCorrectionConfig
from gspo.groups import GroupBatch
from gspo.models import Policy
from gspo.observe import PhaseClock
from gspo.trainer.advantages import add_advantages, add_rewards
from gspo.trainer.batching import Cut, over_passes
from gspo.trainer.critics import Critic, Stats
from gspo.trainer.old_log_probs import OldLogProbs, sampled_entropy
from gspo.world import World, count

__all__ = [
    "HeldReference",
    "NoReference",
    "Preparation",
    "Reference",
    "correct_rollout",
]


class Reference(Stateful, Protocol):
    """The model that the policy is kept near to; a part of the checkpoint."""

    def add(self, batch: GroupBatch) -> None:
        """`ref_log_prob`: each token's log-probability under the reference."""
        ...

    def sync(self, step: int) -> None:
        """Makes the policy the reference where it is time to."""
        ...


class NoReference(Part):
    """Nothing holds the policy: no divergence is asked for."""

    def add(self, batch: GroupBatch) -> None:
        """Nothing is added."""

    def sync(self, step: int) -> None:
        """There is nothing to move."""

    def state(self, step: int) -> dict[str, Any]:
        """`reference_step`: 0, a key that every run's checkpoint has."""
        del step
        return {"reference_step": 0}


class HeldReference(Part):
    """A reference model: the policy that the run began with, or as of the last sync.

    Args:
        policy: the reference.
        actor: the policy that is trained.
        temperature: at which log-probabilities are taken.
        cut: of its passes.
        every: steps after which it becomes the policy, each time; None: never.
        warm: the step after which it becomes the policy once: GAD's reference is the student after its warmup. 0: none.
        clock: times its passes as `ref`.
        world: the ranks.
    """

    def __init__(
        self,
        policy: Policy,
        actor: Policy,
        temperature: float,
        cut: Cut,
        every: int | None,
        warm: int,
        clock: PhaseClock,
        world: World,
    ) -> None:
        self.policy = policy
        self.step = 0
        self._actor, self._temperature, self._cut = actor, temperature, cut
        self._every, self._warm = every, warm
        self._clock, self._world = clock, world

    @torch.no_grad()
    def add(self, batch: GroupBatch) -> None:
        """See `Reference`."""
        with self._clock("ref"):
            read = over_passes(
                batch, self._cut, self._world, lambda part: self.policy.log_probs(part, self._temperature)[0]
            )
            batch["ref_log_prob"] = torch.cat([batch["response_mask"][:0], *read]).float()

    def sync(self, step: int) -> None:
        """See `Reference`."""
        warm = 0 < self._warm == step
        if warm or (self._every is not None and step % self._every == 0):
            self.policy.model.load_state_dict(self._actor.model.state_dict())
            self.step = step

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Its weights, where they are not those of the model that the run began with."""
        return {"reference": self.policy.model.state_dict()} if self.step > 0 else {}

    def state(self, step: int) -> dict[str, Any]:
        """`reference_step`: the step whose weights it holds; 0 for the model that the run began with, and then also
        a checksum of its weights, which are in no checkpoint.
        """
        del step
        return {"reference_step": self.step} | ({} if self.step else {"reference_sha256": self._checksum})

    @cached_property
    def _checksum(self) -> str:
        return digest(self.policy.model.state_dict())

    def check(self, checkpoint: Checkpoint) -> None:
        """Checks that a reference whose weights no checkpoint holds is still the model that the run began with.

        Raises:
            CheckpointError: its files hold other weights.
        """
        kept = checkpoint.state.get("reference_sha256")  # a checkpoint of an earlier release has none
        if "reference" not in checkpoint.tensors and kept not in (None, self._checksum):
            raise CheckpointError(
                f"{checkpoint.path} is of a run whose reference is the model in actor_rollout_ref.model.path as it was "
                "at the start, and other weights are there now: put the model back"
            )

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes up the weights of a checkpoint that has some."""
        if "reference" in checkpoint.tensors:
            self.policy.model.load_state_dict(checkpoint.tensors["reference"])
            self.step = checkpoint.state["reference_step"]


def correct_rollout(batch: GroupBatch, settings: RolloutCorrectionConfig) -> Stats:
    """`rollout_is_weights` and `kept_mask`, as `algorithm.rollout_correction` asks: weights of the policy loss, and
    the tokens that it counts. Advantages and values are of all tokens; pi_old stays the trainer's own.
    """
    if not settings.active:
        return {}
    weights, kept, stats = compute_rollout_correction_and_rejection_mask(
        batch["old_log_probs"],
        batch["rollout_log_probs"],
        batch["response_mask"],
        rollout_is=settings.rollout_is,
        rollout_is_threshold=settings.rollout_is_threshold,
        rollout_rs=settings.rollout_rs,
        rollout_rs_threshold=settings.rollout_rs_threshold,
    )
    batch["kept_mask"] = kept
    if weights is not None:
        batch["rollout_is_weights"] = weights
    return stats


class Preparation:
    """What the updates of a step need, in the order in which each needs the one before.

    Args:
        algorithm: the `algorithm` section.
        old_log_probs: where they come from.
        always_old: whether they are needed even if the policy moves once in a step only.
        updates: how the actor's updates cut a batch; several of them need old log-probabilities.
        reference: the reference model.
        critic: whose values are added.
        kl_controller: the weight of the divergence in the reward.
        clock: times it as `old_log_prob`, `ref`, `values` and `adv`.
        world: the ranks.
    """

    def __init__(
        self,
        algorithm: AlgorithmConfig,
        *,
        old_log_probs: OldLogProbs,
        always_old: bool,
        updates: Cut,
        reference: Reference,
        critic: Critic,
        kl_controller: AdaptiveKLController | FixedKLController,
        clock: PhaseClock,
        world: World,
    ) -> None:
        self._algorithm, self._always_old, self._updates = algorithm, always_old, updates
        self._old_log_probs, self._reference, self._critic = old_log_probs, reference, critic
        self._kl_controller, self._clock, self._world = kl_controller, clock, world

    def prepare(self, batch: GroupBatch, step: int) -> Stats:
        """Takes a step's batch of scored responses to advantages; the figures of the passes that it made."""
        stats: list[Stats] = []
        if self._always_old or self._updates.updates(count(self._world, len(batch.groups))) > 1:
            with self._clock("old_log_prob"):
                stats.append(self._old_log_probs.add(batch, step))
        else:
            stats.append(sampled_entropy(batch, self._world))
        self._reference.add(batch)
        stats.append(self._critic.prepare(batch))
        with self._clock("adv"):
            stats.append(add_rewards(batch, self._kl_controller, self._algorithm, self._world))
            add_advantages(batch, self._algorithm, self._world)
            stats.append(correct_rollout(batch, self._algorithm.rollout_correction))
        return merge_stats(stats)
