"""The steps of a run so far, as much of them as its rules look at."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

__all__ = ["History", "Row"]

# The metrics of one training step, by name.
Row = Mapping[str, float]

_KEPT_STEPS = 16


class History:
    """What is kept of a run's steps: the last ones whole, and of all of them each metric's first value and its range.

    Attributes:
        step: the last step.
        first, lowest, highest: by metric; what was not finite does not count.
        told: the step after which each warning was told, by its name.
    """

    def __init__(self) -> None:
        self.step = 0
        self.first: dict[str, float] = {}
        self.lowest: dict[str, float] = {}
        self.highest: dict[str, float] = {}
        self.told: dict[str, int] = {}
        self._rows: deque[Row] = deque(maxlen=_KEPT_STEPS)

    def add(self, step: int, row: Row) -> None:
        """Takes a step's metrics up."""
        self.step = step
        self._rows.append(row)
        for name, value in row.items():
            if abs(value) < float("inf"):
                self.first.setdefault(name, value)
                self.lowest[name] = min(value, self.lowest.get(name, value))
                self.highest[name] = max(value, self.highest.get(name, value))

    @property
    def row(self) -> Row:
        """The metrics of the last step."""
        return self._rows[-1] if self._rows else {}

    def last(self, count: int) -> list[Row]:
        """The last `count` steps, the newest at the end; none where there are fewer, at most 16."""
        return list(self._rows)[-count:] if len(self._rows) >= count else []

    def values(self, name: str, count: int) -> list[float]:
        """A metric in the last `count` steps; none where one of them has not logged it."""
        rows = self.last(count)
        return [row[name] for row in rows] if all(name in row for row in rows) else []

    def span(self, count: int) -> str:
        """The last `count` steps, for a message."""
        return f"steps {self.step - count + 1} to {self.step}" if count > 1 else f"step {self.step}"
