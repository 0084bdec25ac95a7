"""A dynamic loss scale for products in float16 (Micikevicius et al. 2018, arXiv 1710.03740, section 3.2).

float16 has eleven bits where bfloat16 has eight, and a narrow range: gradients below 6e-8 are lost. The loss is
multiplied before its backward pass, and the gradients are divided before they are used. A gradient that is too large
for float16 becomes infinite; its step is left out and the scale halved.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["LossScale"]

_FIRST = 2.0**16  # torch.amp.GradScaler's
_LEAST = 2.0**-14  # below it, it is not the range of float16 that makes gradients infinite
_STEPS_TO_GROW = 2000  # finite steps after which it is tried whether twice the scale does; torch.amp.GradScaler's


class LossScale:
    """The factor of the loss, and how it moves.

    Attributes:
        value: the factor now, a power of two, so that it rounds nothing.
    """

    def __init__(self) -> None:
        self.value = _FIRST
        self._finite_steps = 0

    def unscale(self, parameters: Iterable[Tensor]) -> None:
        """Divides the gradients of these parameters by the scale, in place."""
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if gradients:
            torch._foreach_mul_(gradients, 1 / self.value)

    def update(self, skipped: bool) -> None:
        """After an optimizer step that was taken, or skipped because a gradient was not finite.

        Raises:
            ValueError: gradients are not finite at the smallest scale either.
        """
        if not skipped:
            self._finite_steps += 1
            if self._finite_steps == _STEPS_TO_GROW:
                self.value, self._finite_steps = 2 * self.value, 0
            return
        self.value, self._finite_steps = self.value / 2, 0
        if self.value < _LEAST:
            raise ValueError(
                "gradients in float16 are NaN or infinite at every loss scale: set "
                "actor_rollout_ref.model.mixed_precision_dtype=bfloat16, or lower the learning rate"
            )

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint, as JSON."""
        return {"value": self.value, "finite_steps": self._finite_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.value, self._finite_steps = float(state["value"]), int(state["finite_steps"])
