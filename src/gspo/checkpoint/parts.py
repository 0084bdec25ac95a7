"""What a checkpoint is made of: parts of a run, each of which knows what it keeps and what it needs to go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor

from gspo.checkpoint.loading import Checkpoint

__all__ = ["Part", "Stateful"]


class Stateful(Protocol):
    """A part of a run that a checkpoint holds."""

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """Its tensors, by the checkpoint's entries."""
        ...

    def state(self, step: int) -> dict[str, Any]:
        """Its keys of `state.json`, after this step."""
        ...

    def check(self, checkpoint: Checkpoint) -> None:
        """Raises CheckpointError where it cannot go on from a checkpoint; changes nothing."""
        ...

    def load(self, checkpoint: Checkpoint) -> None:
        """Goes on from a checkpoint that `check` has passed."""
        ...


class Part:
    """A part with nothing to keep, which goes on from every checkpoint; the base of those that have something."""

    def tensors(self) -> Mapping[str, Mapping[str, Tensor]]:
        """See `Stateful`: none."""
        return {}

    def state(self, step: int) -> dict[str, Any]:
        """See `Stateful`: no key."""
        del step
        return {}

    def check(self, checkpoint: Checkpoint) -> None:
        """See `Stateful`: every checkpoint will do."""

    def load(self, checkpoint: Checkpoint) -> None:
        """See `Stateful`: nothing to take up."""
