"""GAD's stages in one run, and the student's imitation of the teacher in the first (arXiv 2511.10643, section 2.2).

warmup          the student learns the teacher's text by cross-entropy, the discriminator the student's samples
discriminator   the discriminator alone, for `trainer.critic_warmup` steps
adversarial     the student learns from the discriminator's scores, the discriminator from the student's samples
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from gspo.algorithms.stats import Mean, Stat, merge_stats
from gspo.config import Config
from gspo.groups import Group, GroupBatch
from gspo.models import teacher_of
from gspo.trainer.actor import Actor
from gspo.trainer.cross_entropy import cross_entropy
from gspo.trainer.stages import mini_batches

__all__ = ["Stage", "Stages", "imitate_teacher"]


class Stage(IntEnum):
    """What a training step updates; the number is logged."""

    WARMUP = 0
    DISCRIMINATOR = 1
    ADVERSARIAL = 2


@dataclass(frozen=True)
class Stages:
    """Which steps of a run belong to which stage.

    Attributes:
        warmup: steps of the first stage, the first ones.
        critic_only: steps after them that leave the policy as it is.
    """

    warmup: int
    critic_only: int

    @classmethod
    def of(cls, config: Config, batches_per_epoch: int) -> Stages:
        """The stages that the configuration asks for; without a discriminator there is no warmup."""
        trainer = config.trainer
        warmup = trainer.gad_warmup_epochs * batches_per_epoch if trainer.gad_warmup_steps is None else 0
        warmup += trainer.gad_warmup_steps or 0
        critic_only = trainer.critic_warmup if config.critic.enable else 0
        return cls(warmup if config.wants_discriminator else 0, critic_only)

    def at(self, step: int) -> Stage:
        """The stage of a step, counted from 1."""
        if step <= self.warmup:
            return Stage.WARMUP
        return Stage.DISCRIMINATOR if step <= self.warmup + self.critic_only else Stage.ADVERSARIAL

    def summary(self, total_steps: int) -> str:
        """The stages and their steps, for the run's header."""
        lengths = {
            "warmup on the teacher's text": self.warmup,
            "discriminator alone": self.critic_only,
            "adversarial": max(0, total_steps - self.warmup - self.critic_only),
        }
        return ", then ".join(
            f"{length} step{'s' * (length != 1)} {name}" for name, length in lengths.items() if length
        )


def imitate_teacher(batch: GroupBatch, actor: Actor, config: Config, step: int) -> dict[str, Stat]:
    """The student's updates of one step of the first stage: cross-entropy on the teacher's responses, per token.

    Mini-batches and passes over them are the actor's; the learning rate is constant and outside of its schedule.
    """
    lr = config.trainer.gad_warmup_lr
    lr = config.actor_rollout_ref.actor.optim.lr if lr is None else lr
    taught = [Group(group.prompt, [replace(teacher_of(group))]) for group in batch.groups]
    stats: list[dict[str, Stat]] = [{"actor/lr": Mean(lr)}]
    with actor.constant_rate(lr):
        for mini_batch in mini_batches(GroupBatch.from_groups(taught, actor.policy.device), config, step):
            for _, share, mean in cross_entropy(mini_batch, actor.policy, config):
                share.backward()
                stats.append({"train/loss": mean})
            stats.append(actor.step())
    return merge_stats(stats)
