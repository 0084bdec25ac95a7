"""What a run of any kind is: a policy that is trained on prompts, in a folder, watched, saved and resumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import Checkpoint, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from gspo.config import Config
from gspo.data import PromptDataset, PromptSampler
from gspo.observe import ConsoleLogger, PhaseClock, Tracker
from gspo.trainer.actor import Actor
from gspo.trainer.folder import write_config

__all__ = ["BaseRun"]


@dataclass(kw_only=True)
class BaseRun:
    """A run and where it stands; the kinds of run add what else they work with.

    Attributes:
        kind: what a checkpoint says wrote it ("train" or "sft").
        step: the last finished step; 0 at the start.
        total_steps: the step after which the run is done.
    """

    kind: ClassVar[str]

    config: Config
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    actor: Actor
    train_data: PromptDataset
    val_data: PromptDataset | None
    sampler: PromptSampler
    tracker: Tracker
    console: ConsoleLogger
    clock: PhaseClock
    total_steps: int
    step: int = 0

    def begin(self, checkpoint: Path | None) -> None:
        """Goes on from a checkpoint where there is one, and writes the settings down where steps are left to train."""
        if checkpoint is not None:
            self.restore(checkpoint)
            self.console.notice(f"resumed from {checkpoint} after step {self.step} of {self.total_steps}")
        only_looks = self.config.trainer.val_only and checkpoint is not None
        if self.step < self.total_steps and not only_looks:
            for line in write_config(self.folder, self.config, self.step):
                self.console.notice(line)

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        random_tensors, random_state = rng_state()
        more_tensors, more_state = self._more_to_save()
        return save_checkpoint(
            self.folder,
            self.step,
            tensors={**self.actor.tensors(), "rng": random_tensors, **more_tensors},
            state={
                "actor": self.actor.state(),
                "sampler": self.sampler.state_dict(),
                "rng": random_state,
                "kind": self.kind,
                **more_state,
            },
            keep=self.config.trainer.max_actor_ckpt_to_keep,
        )

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint.

        Raises:
            CheckpointError: it cannot be read, or is of another run than this one's.
        """
        checkpoint = load_checkpoint(path)
        self._check(checkpoint)
        self.sampler.load_state_dict(checkpoint.state["sampler"])
        self.actor.load(checkpoint, checkpoint.state["actor"])
        self._load_more(checkpoint)
        for warning in set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"]):
            self.console.notice(warning)
        self.step = checkpoint.step

    def _more_to_save(self) -> tuple[Mapping[str, Mapping[str, Tensor]], Mapping[str, Any]]:
        """Tensors and state of a checkpoint beyond the actor, the sampler and the random states."""
        return {}, {}

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError where this kind of run cannot go on from it."""

    def _load_more(self, checkpoint: Checkpoint) -> None:
        """Takes up what `_more_to_save` gave."""
