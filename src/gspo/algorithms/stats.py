"""Metrics as sums and counts, so that micro-batches and ranks reduce to the figure of the whole batch.

An algorithm returns `Mean`, `Max`, `Min` or `Derived`; the trainer merges them over micro-batches and ranks and logs
one float. They hold tensors, so nothing here waits for the device before `float()` is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

__all__ = ["Derived", "Max", "Mean", "Min", "Stat", "merge_stats", "to_floats"]


@dataclass(frozen=True)
class Mean:
    """total / count, where both are added up over parts. A count of zero gives 0."""

    total: Tensor | float
    count: Tensor | float = 1.0

    @classmethod
    def masked(cls, values: Tensor, mask: Tensor) -> Mean:
        """Mean of `values` where `mask` is one; the other values, NaN included, do not count."""
        return cls(torch.where(mask.bool(), values, 0.0).sum().detach(), mask.sum().detach())

    def merge(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.count + other.count)

    def __float__(self) -> float:
        count = float(self.count)
        return float(self.total) / count if count else 0.0


@dataclass(frozen=True)
class Max:
    """The largest value over parts."""

    value: Tensor | float

    def merge(self, other: Max) -> Max:
        return Max(max(self.value, other.value))

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Min:
    """The smallest value over parts."""

    value: Tensor | float

    def merge(self, other: Min) -> Min:
        return Min(min(self.value, other.value))

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True)
class Derived:
    """A figure of sums that are added up over parts, such as a share of explained variance.

    Attributes:
        sums: what is added up, one-dimensional.
        figure: the figure of the whole batch, from its sums.
    """

    sums: Tensor
    figure: Callable[[Tensor], float]

    def merge(self, other: Derived) -> Derived:
        return Derived(self.sums + other.sums, self.figure)

    def __float__(self) -> float:
        return self.figure(self.sums)


Stat = Mean | Max | Min | Derived


def merge_stats(parts: Iterable[Mapping[str, Stat]]) -> dict[str, Stat]:
    """Merges the metrics of several parts of one batch, name by name."""

    def merge(left: dict[str, Stat], right: Mapping[str, Stat]) -> dict[str, Stat]:
        both = {name: left[name].merge(stat) if name in left else stat for name, stat in right.items()}  # type: ignore[arg-type]
        return {**left, **both}

    return reduce(merge, parts, {})


def to_floats(stats: Mapping[str, Stat | float]) -> dict[str, float]:
    """The figures to log."""
    return {name: float(stat) for name, stat in stats.items()}
