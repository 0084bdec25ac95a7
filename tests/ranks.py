"""Two or more ranks in one process: threads that meet in every collective of a `World`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from gspo.algorithms.stats import Stat, merge_stats

__all__ = ["Ranks", "on_ranks"]

Result = TypeVar("Result")
# A collective that some rank never joins fails after this many seconds, in place of a test that hangs.
_PATIENCE = 60.0


class Ranks:
    """The meeting point of the ranks, and a record of what was asked: one list of names for each rank."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.asked: list[list[str]] = [[] for _ in range(size)]
        self._barrier = threading.Barrier(size)
        self._given: list[Any] = [None] * size

    def exchange(self, rank: int, name: str, value: Any) -> list[Any]:
        """Every rank's value; all ranks must ask the same question."""
        self.asked[rank].append(name)
        self._given[rank] = (name, value)
        self._barrier.wait(_PATIENCE)
        names, values = zip(*self._given, strict=True)
        self._barrier.wait(_PATIENCE)
        assert len(set(names)) == 1, f"the ranks ask different questions: {names}"
        return list(values)

    def abort(self) -> None:
        """Ends the waiting of the others where one rank failed."""
        self._barrier.abort()


class RankOf:
    """One rank's `World`."""

    def __init__(self, ranks: Ranks, rank: int) -> None:
        self._ranks, self.rank, self.size = ranks, rank, ranks.size

    def sum(self, values: Tensor) -> Tensor:
        given = self._ranks.exchange(self.rank, "sum", values.detach().clone())
        assert len({tensor.shape for tensor in given}) == 1, f"shapes differ: {[t.shape for t in given]}"
        return torch.stack(given).sum(0)

    def most(self, value: int) -> int:
        return max(self._ranks.exchange(self.rank, "most", value))

    def any(self, value: bool) -> bool:
        return any(self._ranks.exchange(self.rank, "any", value))

    def merge(self, stats: Mapping[str, Stat]) -> dict[str, Stat]:
        return merge_stats(self._ranks.exchange(self.rank, "merge", dict(stats)))


def on_ranks(work: Callable[[RankOf], Result], size: int = 2) -> tuple[list[Result], Ranks]:
    """Runs `work` on every rank at once; the results by rank, and what the ranks asked.

    Raises:
        Exception: what a rank raised; of several, the first rank's that is no broken barrier.
    """
    ranks = Ranks(size)
    results: list[Any] = [None] * size
    errors: list[BaseException | None] = [None] * size

    def run(rank: int) -> None:
        try:
            results[rank] = work(RankOf(ranks, rank))
        except BaseException as error:
            errors[rank] = error
            ranks.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    raised = [error for error in errors if error is not None]
    causes = [error for error in raised if not isinstance(error, threading.BrokenBarrierError)]
    if raised:
        raise (causes or raised)[0]
    return results, ranks
