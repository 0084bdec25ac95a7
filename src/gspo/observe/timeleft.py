"""How long a run still takes, from the steps and validations that it has made."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

__all__ = ["TimeLeft"]

_RECENT_STEPS = 20  # so that a slow first step does not count for long
_SURE_STEPS = 3  # with more than these, the first one, which compiles and warms up, is left out


class TimeLeft:
    """The seconds that the rest of a run takes.

    Args:
        total_steps: the run's last step.
        test_freq: steps between validations; below 1: at the end only.

    Attributes:
        step: the last step.
        num_steps: steps that were seen, in this process.
    """

    def __init__(self, total_steps: int, test_freq: int = -1) -> None:
        self._total_steps, self._test_freq = total_steps, test_freq
        self._steps: deque[float] = deque(maxlen=_RECENT_STEPS)
        self._validation: float | None = None
        self._added: int | None = None
        self.step = self.num_steps = 0

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """Takes up a row of metrics, once: `timing_s/step` and `timing_s/testing` are read."""
        if step == self._added:
            return
        self._added = step
        self.step = step
        self._validation = metrics.get("timing_s/testing", self._validation)
        if "timing_s/step" in metrics:
            self.num_steps += 1
            if self.num_steps == _SURE_STEPS + 1:
                self._steps.popleft()
            self._steps.append(metrics["timing_s/step"])

    @property
    def validates(self) -> bool:
        """Whether validations are a part of what is left."""
        return self._validation is not None and self._validations_left() > 0

    @property
    def usual(self) -> float | None:
        """Seconds of a step, from the last ones; None before the first."""
        return sum(self._steps) / len(self._steps) if self._steps else None

    @property
    def seconds(self) -> float | None:
        """Seconds that are left, validations included once one was timed; None before the first step."""
        if self.usual is None:
            return None
        remaining = max(self._total_steps - self.step, 0)
        return remaining * self.usual + self._validations_left() * (self._validation or 0.0)

    def _validations_left(self) -> int:
        if self.step >= self._total_steps:
            return 0
        last = self._total_steps - 1  # the last step is always validated
        between = last // self._test_freq - self.step // self._test_freq if self._test_freq > 0 else 0
        return between + 1
