"""A run of any kind: a policy that is trained on prompts, in a folder, watched, saved and resumed part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import Checkpoint, Part, Stateful, rng_state, save_checkpoint, set_rng_state
from gspo.config import Config
from gspo.data import PromptDataset, PromptSampler
from gspo.groups import Group
from gspo.observe import ConsoleLogger, PhaseClock, SampleWriter, Tracker
from gspo.rollout import RolloutEngine
from gspo.trainer.critics import Critic, Schedule, Stats
from gspo.trainer.folder import write_config
from gspo.trainer.preparation import Reference
from gspo.trainer.trained import Actor
from gspo.world import World, is_main

__all__ = ["Callback", "JsonState", "RandomState", "Run", "Taken", "TrainRun"]

# Called after each step with its number, its metrics and its groups; a true answer ends the run after that step.
Callback = Callable[[int, Mapping[str, float], Sequence[Group]], Any]


class _HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> None: ...


class JsonState(Part):
    """A part whose state is JSON alone: the order of the prompts, the weight of the divergence.

    Args:
        key: its key of `state.json`.
        part: whose state it is.
    """

    def __init__(self, key: str, part: _HasState) -> None:
        self._key, self._part = key, part

    def state(self, step: int) -> dict[str, Any]:
        """See `Stateful`."""
        del step
        return {self._key: self._part.state_dict()}

    def check(self, checkpoint: Checkpoint) -> None:
        """See `Stateful`; the state is tried on a copy."""
        copy(self._part).load_state_dict(checkpoint.state[self._key])

    def load(self, checkpoint: Checkpoint) -> None:
        """See `Stateful`."""
        self._part.load_state_dict(checkpoint.state[self._key])


class RandomState(Part):
    """The global random states of this process."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """See `Stateful`."""
        return {"rng": rng_state()[0]}

    def state(self, step: int) -> dict[str, Any]:
        """See `Stateful`."""
        del step
        return {"rng": rng_state()[1]}

    def load(self, checkpoint: Checkpoint) -> None:
        """See `Stateful`."""
        for warning in set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"]):
            self._say(warning)


@dataclass(frozen=True)
class Taken:
    """What a training step did.

    Attributes:
        groups: this rank's groups that were sampled, for samples and callbacks.
        stats: its figures, of this rank.
        num_tokens: tokens that it worked on, of this rank.
    """

    groups: list[Group]
    stats: Stats
    num_tokens: int


@dataclass(kw_only=True)
class Run:
    """A run and where it is; the kinds of run add what else they work with.

    Attributes:
        kind: what a checkpoint says wrote it: "train" or "sft".
        parts: what a checkpoint holds, by name.
        take_step: trains one step.
        validate: measures the policy after a step on held-out prompts; empty without any.
        say_once: prints a notice (text, subject), the first time that it is about this subject.
        only_validates: whether it ends after the first validation.
        step: the last finished step; 0 at the start.
        total_steps: the step after which the run is done.
    """

    kind: str
    config: Config
    folder: Path
    world: World
    tokenizer: PreTrainedTokenizerBase
    actor: Actor
    train_data: PromptDataset
    val_data: PromptDataset | None
    sampler: PromptSampler
    tracker: Tracker
    console: ConsoleLogger
    clock: PhaseClock
    samples: SampleWriter
    total_steps: int
    parts: Mapping[str, Stateful]
    take_step: Callable[[int], Taken]
    validate: Callable[[int], dict[str, float]]
    say_once: Callable[[str, str], None]
    only_validates: bool = False
    callbacks: Sequence[Callback] = ()
    step: int = 0

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Goes on from a checkpoint where there is one, and writes the settings down where steps are left to train.

        Raises:
            CheckpointError: the checkpoint is of another run than this one's; nothing has changed.
        """
        if checkpoint is not None:
            self.restore(checkpoint)
            self.console.notice(f"resumed from {checkpoint.path} after step {self.step} of {self.total_steps}")
        only_looks = self.only_validates and checkpoint is not None
        if self.step < self.total_steps and not only_looks and is_main(self.world):
            for line in write_config(self.folder, self.config, self.step):
                self.console.notice(line)

    def save(self) -> Path:
        """Writes a checkpoint of the current step, and returns its folder."""
        tensors: dict[str, Mapping[str, Tensor]] = {}
        state: dict[str, Any] = {"kind": self.kind}
        for part in self.parts.values():
            tensors |= part.tensors()
            state |= part.state(self.step)
        keep = self.config.trainer.max_actor_ckpt_to_keep
        if is_main(self.world):
            return save_checkpoint(self.folder, self.step, tensors=tensors, state=state, keep=keep)
        return self.folder / "checkpoints" / f"global_step_{self.step}"

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint: every part is checked before any is changed.

        Raises:
            CheckpointError: it is of another run than this one's.
        """
        for part in self.parts.values():
            part.check(checkpoint)
        for part in self.parts.values():
            part.load(checkpoint)
        if "critic" in checkpoint.state and "critic" not in self.parts:
            self.console.notice(f"{checkpoint.path} holds a critic, which this run does not train: it goes on without")
        self.step = checkpoint.step


@dataclass(kw_only=True)
class TrainRun(Run):
    """A run of reinforcement learning.

    Attributes:
        compares_groups: whether the advantage compares the responses of a group.
    """

    engine: RolloutEngine
    critic: Critic
    reference: Reference
    schedule: Schedule
    compares_groups: bool

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """See `Run.begin`; the engine then has the policy's weights, also an engine that keeps its own copy."""
        super().begin(checkpoint)
        self.engine.load_weights(self.actor.policy, self.step)
