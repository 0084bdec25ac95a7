"""A model that is trained, with its optimizer and schedule: what a checkpoint holds of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gspo.algorithms.stats import Mean, Stat
from gspo.checkpoint import Checkpoint, CheckpointError, load_optimizer, optimizer_to_tensors
from gspo.config.schema import OptimConfig
from gspo.trainer.optim import clip_and_step, make_optimizer, make_schedule

__all__ = ["Trained"]


class Trained:
    """A module with an optimizer and a learning-rate schedule.

    Args:
        module: what is trained.
        optim: the optimizer's settings.
        total_steps: updates of the run that the schedule counts, one for each training step.
        name: "actor" or "critic": the prefix of its metrics, and its entries in a checkpoint (NAME, NAME_optim).
        model_key: the configuration's key of its model, for messages.
    """

    def __init__(self, module: nn.Module, optim: OptimConfig, total_steps: int, *, name: str, model_key: str) -> None:
        self.module = module
        self.name = name
        self.optimizer = make_optimizer(module, optim)
        self.schedule = make_schedule(self.optimizer, optim, total_steps)
        self._clip_grad = optim.clip_grad
        self._model_key = model_key
        self._lr_key = optim.key("lr")

    @property
    def lr(self) -> float:
        """The current learning rate."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self) -> dict[str, Stat]:
        """One optimizer step on the gradients gathered so far; a gradient that is not finite is dropped and counted."""
        norm = clip_and_step(self.module, self.optimizer, self._clip_grad)
        skipped = not math.isfinite(norm)
        stats: dict[str, Stat] = {f"{self.name}/skipped_steps": Mean(float(skipped))}
        return stats if skipped else stats | {f"{self.name}/grad_norm": Mean(norm)}

    def advance(self) -> None:
        """Ends a training step: moves the schedule on, also where the optimizer's steps were all dropped.

        Raises:
            ValueError: the step left weights that are NaN or infinite; no checkpoint holds them yet.
        """
        self._check_finite()
        self._set_rates(self.schedule.last_epoch + 1)

    @contextmanager
    def constant_rate(self, lr: float) -> Iterator[None]:
        """A training step at this learning rate, which the schedule does not count.

        Raises:
            ValueError: the step left weights that are NaN or infinite; no checkpoint holds them yet.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        yield
        self._check_finite()
        self._set_rates(self.schedule.last_epoch)

    def _check_finite(self) -> None:
        trained = {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}
        sums = torch.stack([parameter.sum(dtype=torch.float32) for parameter in trained.values()])
        for name, finite in zip(trained, sums.isfinite().tolist(), strict=True):
            if not finite:
                raise ValueError(
                    f"training has diverged: {name} of the {self.name} is NaN or infinite after this step. Lower "
                    f"{self._lr_key}; the same command then goes on from the newest checkpoint, if there is one"
                )

    def tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """Weights and optimizer moments, for a checkpoint."""
        moments, _ = optimizer_to_tensors(self.optimizer, self.module.named_parameters())
        weights = {entry: module.state_dict() for entry, module in self._entries().items()}
        return {**weights, f"{self.name}_optim": moments}

    def _entries(self) -> dict[str, nn.Module]:
        """The entries of a checkpoint that hold weights, and the modules that these are of."""
        return {self.name: self.module}

    def state(self) -> dict[str, Any]:
        """What of optimizer and schedule is no tensor, for a checkpoint."""
        _, optimizer = optimizer_to_tensors(self.optimizer, self.module.named_parameters())
        return {"optimizer": optimizer, "schedule_step": self.schedule.last_epoch}

    def load(self, checkpoint: Checkpoint, state: Mapping[str, Any]) -> None:
        """Goes back to where a checkpoint was taken.

        Raises:
            CheckpointError: it is of another model, or of a run without this one.
        """
        if self.name not in checkpoint.tensors:
            raise CheckpointError(
                f"{checkpoint.path} holds no {self.name}, which this run trains: resume with the settings that the run "
                "began with, or start again with trainer.resume_mode=disable"
            )
        try:
            for entry, module in self._entries().items():
                module.load_state_dict(checkpoint.tensors[entry])
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights in {checkpoint.path} are of another model than {self._model_key}: "
                f"resume with the model the run began with ({str(error).splitlines()[-1].strip()})"
            ) from error
        moments = checkpoint.tensors[f"{self.name}_optim"]
        load_optimizer(self.optimizer, self.module.named_parameters(), moments, state["optimizer"])
        self._set_rates(state["schedule_step"])

    def _set_rates(self, step: int) -> None:
        """Learning rates of this step of the schedule: those of the run as it is configured now."""
        schedule = self.schedule
        schedule.last_epoch = step
        bases = zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        for group, (base, factor) in zip(self.optimizer.param_groups, bases, strict=True):
            group["lr"] = float(base) * factor(step)
