"""A run of any kind: a policy that is trained on prompts, in a folder, watched, saved and resumed part by part."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import (
    Checkpoint,
    CheckpointError,
    Part,
    Stateful,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from gspo.config import Config, ConfigError
from gspo.data import PromptDataset, PromptSampler
from gspo.groups import Group
from gspo.observe import ConsoleLogger, CoreClock, PhaseClock, SampleWriter, Tracker, Watch
from gspo.observe.jsonl import read_jsonl
from gspo.rollout import RolloutEngine
from gspo.trainer.critics import Critic, Schedule, Stats
from gspo.trainer.preparation import Reference
from gspo.trainer.records import trained_otherwise, write_config, write_methods
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
        if self._key not in checkpoint.state:
            raise CheckpointError(
                f"{checkpoint.path} holds no {self._key}: resume with the settings that the run began with"
            )
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
        advantages: of each response of `groups`, the mean over its tokens, None for one that took no part; None in a
            step that uses none.
    """

    groups: list[Group]
    stats: Stats
    num_tokens: int
    advantages: list[float | None] | None = None


@dataclass(kw_only=True)
class Run:
    """A run and where it is; the kinds of run add what else they work with.

    Attributes:
        kind: what a checkpoint says wrote it: "train" or "sft".
        parts: what a checkpoint holds, by name.
        take_step: trains one step.
        validate: measures the policy after a step on held-out prompts; empty without any.
        say_once: prints a notice (text, subject), the first time that it is about this subject.
        watch: says what is wrong with the run, as far as its metrics show.
        opens: what is to be said before a step, where another part of the run begins with it; else empty.
        only_validates: whether it ends after the first validation.
        cores: how much of the cores other processes use.
        step: the last finished step; 0 at the start.
        stop_asked: whether the run is to end after this step.
        saved_at: when a checkpoint was written last, or the run began; of `time.monotonic`.
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
    watch: Watch
    opens: Callable[[int], str] = lambda step: ""  # noqa: ARG005
    only_validates: bool = False
    callbacks: Sequence[Callback] = ()
    cores: CoreClock = field(default_factory=CoreClock)
    step: int = 0
    stop_asked: bool = False
    saved_at: float = field(default_factory=time.monotonic)

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Goes on from a checkpoint where there is one, and writes the settings down where steps are left to train.

        Raises:
            CheckpointError: the checkpoint is of another run than this one's; nothing has changed.
            ConfigError: all steps are done, with other settings.
        """
        if checkpoint is not None:
            self.restore(checkpoint)
            self.watch.replay(read_jsonl(self.folder / "metrics.jsonl"), self.step)
            self.console.notice(f"resumed from {checkpoint.path} after step {self.step} of {self.total_steps}")
        only_looks = self.only_validates and checkpoint is not None
        if only_looks or not is_main(self.world):
            return
        if self.step < self.total_steps:
            for line in write_config(self.folder, self.config, None if checkpoint is None else self.step):
                self.console.notice(line)
        elif changed := trained_otherwise(self.folder, self.config, self.step):
            raise ConfigError(
                f"all {self.step} steps of the run in {self.folder} are done, with other settings ({changed}): name "
                "another trainer.default_local_dir for these, set trainer.resume_mode=disable to begin again here (the "
                "earlier run is moved aside), or raise trainer.total_training_steps to go on with them"
            )

    def save(self, *, rolling: bool = False) -> Path:
        """Writes a checkpoint of the current step, and returns its folder.

        Args:
            rolling: whether it makes room for later ones; see `save_checkpoint`.

        Raises:
            CheckpointError: the disk does not take it.
        """
        self.saved_at = time.monotonic()
        tensors: dict[str, Mapping[str, Tensor]] = {}
        state: dict[str, Any] = {"kind": self.kind}
        for part in self.parts.values():
            tensors |= part.tensors()
            state |= part.state(self.step)
        keep = self.config.trainer.max_actor_ckpt_to_keep
        if is_main(self.world):
            with self.clock("save_checkpoint"):
                path = save_checkpoint(self.folder, self.step, tensors=tensors, state=state, keep=keep, rolling=rolling)
            # Shown and not logged: a resumed run has the same metrics, and has not written what it goes on from.
            self.console.saved(self.clock.pop()["timing_s/save_checkpoint"])
            return path
        return self.folder / "checkpoints" / f"global_step_{self.step}"

    def is_due(self) -> bool:
        """Whether `trainer.save_interval_minutes` asks for a checkpoint, by the main rank's clock."""
        trainer = self.config.trainer
        if trainer.save_freq > 0 or trainer.save_interval_minutes is None:
            return False
        waited = time.monotonic() - self.saved_at
        return self.world.any(is_main(self.world) and waited >= 60 * trainer.save_interval_minutes)

    def restore(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint: every part is checked before any is changed.

        Raises:
            CheckpointError: it is of another run than this one's.
        """
        try:
            for part in self.parts.values():
                part.check(checkpoint)
        except ValueError as error:
            raise CheckpointError(
                f"{error}. To leave the run in {checkpoint.path.parent.parent} as it is, name another "
                "trainer.default_local_dir; trainer.resume_mode=disable begins again (the earlier run is moved aside)"
            ) from error
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
        if is_main(self.world) and self.step < self.total_steps:
            write_methods(self.folder, self.config)
        self.engine.load_weights(self.actor.policy, self.step)
