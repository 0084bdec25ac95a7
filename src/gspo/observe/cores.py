"""How much of this process's cores other processes use, from Linux's /proc; elsewhere nothing is known."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["CoreClock"]

_PROC = Path("/proc")
_IDLE = (3, 4)  # of a cpu line's figures: idle, and waiting for a disk
_GUESTS = 8  # figures from here on are counted in earlier ones already


class CoreClock:
    """Measures from one call of `pop` to the next.

    Args:
        proc: the folder of the kernel's figures.
        now: the seconds' source.
    """

    def __init__(self, proc: Path = _PROC, now: Callable[[], float] = time.monotonic) -> None:
        self._proc, self._now = proc, now
        self._last = self._read()

    def pop(self) -> dict[str, float]:
        """`perf/cores_others`: cores that other processes kept busy since the last call, of those this one may use.

        This process's own children count as this process. Empty where the system does not tell.
        """
        before, self._last = self._last, self._read()
        if before is None or self._last is None:
            return {}
        (was, all_was, own_was), (now, all_now, own_now) = before, self._last
        if now <= was:
            return {}
        return {"perf/cores_others": max(0.0, (all_now - all_was) - (own_now - own_was)) / (now - was)}

    def _read(self) -> tuple[float, float, float] | None:
        """The time, the busy seconds of the cores, and those of this process and its children."""
        try:
            ticks = os.sysconf("SC_CLK_TCK")
            cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
            lines = [line.split() for line in (self._proc / "stat").read_text(encoding="ascii").splitlines()]
            busy = sum(sum(_busy(line[1:])) for line in lines if line and line[0] in cores)
            own = sum(map(self._used, self._family(os.getpid())))
        except (OSError, ValueError, AttributeError):
            return None
        return self._now(), busy / ticks, own / ticks

    def _family(self, process: int) -> Iterator[int]:
        yield process
        for file in (self._proc / str(process) / "task").glob("*/children"):
            for child in file.read_text(encoding="ascii").split():
                yield from self._family(int(child))

    def _used(self, process: int) -> int:
        """User and system time of a process, its ended children included, in ticks."""
        try:
            text = (self._proc / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:  # it has ended in between
            return 0
        figures = text.rpartition(")")[2].split()  # a name may have spaces; the first figure is the state
        return sum(map(int, figures[11:15]))


def _busy(figures: list[str]) -> Iterator[int]:
    return (int(figure) for place, figure in enumerate(figures[:_GUESTS]) if place not in _IDLE)
