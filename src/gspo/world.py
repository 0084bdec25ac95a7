"""The ranks of a run, and the only collectives that a training step uses; true without a launcher.

Every number that decides how many passes or optimizer steps a rank makes, and every normaliser, is asked of the
`World`, so that all ranks decide alike. In one process each answer is the question: `Alone` returns its argument, and
no bit changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from gspo.algorithms.stats import Stat

__all__ = ["Alone", "World", "count", "is_main"]


class World(Protocol):
    """The ranks that train together. Each method but the attributes is a collective: every rank must call it."""

    @property
    def rank(self) -> int:
        """This process's number, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many ranks there are."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum of every rank's tensor; all have the same shape."""
        ...

    def most(self, value: int) -> int:
        """The largest of every rank's numbers."""
        ...

    def any(self, value: bool) -> bool:
        """Whether it is true on at least one rank."""
        ...

    def merge(self, stats: Mapping[str, Stat]) -> dict[str, Stat]:
        """The metrics of all ranks together. A name that only some ranks have is that of those."""
        ...


class Alone:
    """The world of one process."""

    rank = 0
    size = 1

    def sum(self, values: Tensor) -> Tensor:
        """The tensor itself."""
        return values

    def most(self, value: int) -> int:
        """The number itself."""
        return value

    def any(self, value: bool) -> bool:
        """The answer itself."""
        return value

    def merge(self, stats: Mapping[str, Stat]) -> dict[str, Stat]:
        """The metrics themselves."""
        return dict(stats)


def is_main(world: World) -> bool:
    """Whether this rank writes files and prints."""
    return world.rank == 0


def count(world: World, number: int) -> int:
    """The sum of a whole number over the ranks."""
    return int(world.sum(torch.tensor(number)))
