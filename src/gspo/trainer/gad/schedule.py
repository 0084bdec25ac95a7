"""GAD's stages in one run (arXiv 2511.10643, section 2.2).

warmup          the student learns the teacher's text by cross-entropy, the discriminator the student's samples
discriminator   the discriminator alone, for `trainer.critic_warmup` steps
adversarial     the student learns from the discriminator's scores, the discriminator from the student's samples
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from gspo.checkpoint import Checkpoint, CheckpointError, Part
from gspo.config.schema import TrainerConfig

__all__ = ["NoStages", "Stage", "Stages"]


class Stage(IntEnum):
    """What a training step updates; the number is logged."""

    WARMUP = 0
    DISCRIMINATOR = 1
    ADVERSARIAL = 2


# What is said where a stage begins: of GAD, and of a value critic that learns alone at first.
_OPENINGS = {
    Stage.WARMUP: "warmup, the student learns the teacher's text, and the discriminator to tell the two apart",
    Stage.DISCRIMINATOR: "the discriminator learns alone, and the student stays as it is",
    Stage.ADVERSARIAL: "adversarial, the student learns from the discriminator's scores, and the discriminator goes on",
}
_CRITIC_OPENINGS = {
    Stage.DISCRIMINATOR: "the critic learns alone, and the policy stays as it is",
    Stage.ADVERSARIAL: "the policy learns too",
}


@dataclass(frozen=True)
class Stages(Part):
    """Which steps of a GAD run belong to which stage; a part of its checkpoints.

    Attributes:
        warmup: steps of the first stage, the first ones.
        critic_only: steps after them that leave the policy as it is.
    """

    warmup: int
    critic_only: int

    @classmethod
    def of(cls, trainer: TrainerConfig, batches_per_epoch: int) -> Stages:
        """The stages that the configuration asks for."""
        warmup = trainer.gad_warmup_epochs * batches_per_epoch if trainer.gad_warmup_steps is None else 0
        return cls(warmup + (trainer.gad_warmup_steps or 0), trainer.critic_warmup)

    @property
    def num_before_adversarial(self) -> int:
        """Steps before the last stage."""
        return self.warmup + self.critic_only

    def at(self, step: int) -> Stage:
        """The stage of a step, counted from 1."""
        return Stage(bisect_left([self.warmup, self.num_before_adversarial], step))

    def summary(self, total_steps: int) -> str:
        """The stages and their steps, for the run's header."""
        lengths = {
            "warmup on the teacher's text": self.warmup,
            "discriminator alone": self.critic_only,
            "adversarial": max(0, total_steps - self.num_before_adversarial),
        }
        return ", then ".join(
            f"{length} step{'s' * (length != 1)} {name}" for name, length in lengths.items() if length
        )

    def opening(self, step: int, total_steps: int, distils: bool = True) -> str:
        """What is to be said before a step that is the first of its stage; empty before any other, and of one stage.

        Args:
            step: counted from 1.
            total_steps: the run's last one.
            distils: the critic is a discriminator; else PPO's.
        """
        stage = self.at(step)
        ends = {
            Stage.WARMUP: self.warmup,
            Stage.DISCRIMINATOR: self.num_before_adversarial,
            Stage.ADVERSARIAL: total_steps,
        }
        before = ends[Stage(stage - 1)] if stage else 0
        if step != before + 1 or not self.num_before_adversarial:
            return ""
        words = _OPENINGS[stage] if distils else _CRITIC_OPENINGS[stage]
        return f"steps {step} to {min(ends[stage], total_steps)}: {words}"

    def state(self, step: int) -> dict[str, Any]:
        """`stage`: its name after this step, and the length of the warmup, which counts before all other steps."""
        return {"stage": {"name": self.at(step).name.lower(), "warmup_steps": self.warmup}}

    def check(self, checkpoint: Checkpoint) -> None:
        """Checks that a checkpoint's warmup is this run's.

        Raises:
            CheckpointError: it has another length.
        """
        _check_warmup(checkpoint, self.warmup)


class NoStages(Part):
    """What a run without a discriminator has in place of stages: it goes on from no run that had a warmup."""

    def check(self, checkpoint: Checkpoint) -> None:
        """Checks that a checkpoint is of a run without a warmup.

        Raises:
            CheckpointError: it had one.
        """
        _check_warmup(checkpoint, 0)


def _check_warmup(checkpoint: Checkpoint, mine: int) -> None:
    warmup = checkpoint.state.get("stage", {"warmup_steps": 0})["warmup_steps"]
    if warmup != mine:
        raise CheckpointError(
            f"{checkpoint.path} is of a run with {warmup} steps of GAD's warmup, and this run has {mine}: "
            f"set trainer.gad_warmup_steps={warmup}"
        )
