"""How many calls run at the same time: few that compute, many that wait; and how to tell which they do."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TICK", "Concurrency", "computes", "memory_is_free", "thread_computes"]

# Seconds between two looks at what runs. A call must have run for half of it to say anything: a shorter one is seen
# asleep while it is handed over.
TICK = 0.02


class Concurrency:
    """The number of calls that may run at the same time, learned from what running calls do.

    More than `least` calls that compute would only share the processors, and each would take longer than it takes; of
    calls that wait, for a judge model or another process, many fit side by side.

    Attributes:
        limit: calls that may run now, from `least` to `most`.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, max(least, most)
        self.limit = least

    def observe(self, running: int, computing: int) -> None:
        """Takes in one look: of `running` calls, each long enough under way, this many compute."""
        if running >= self.limit and computing == 0:
            self.limit = min(self._most, 2 * self.limit)
        elif computing >= self._least and running > self._least:
            self.limit = max(self._least, self.limit - max(1, self.limit // 4))


def computes(process: int) -> bool:
    """Whether a process or one that it started runs, or is ready to; unknown (not on Linux) is taken for yes."""
    tasks = Path(f"/proc/{process}")
    try:
        children = (tasks / f"task/{process}/children").read_text().split()
        return _is_runnable(tasks / "stat") or any(computes(int(child)) for child in children)
    except FileNotFoundError:
        return not Path("/proc/self/stat").exists()
    except (OSError, ValueError):
        return True


def thread_computes(thread: int) -> bool:
    """The same of a thread of this process, by its native id."""
    try:
        return _is_runnable(Path(f"/proc/self/task/{thread}/stat"))
    except OSError:
        return not Path("/proc/self/stat").exists()


def memory_is_free() -> bool:
    """Whether a quarter of the machine's memory is available, for processes beyond those that were asked for."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return True
    sizes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return 4 * sizes.get("MemAvailable", sizes["MemTotal"]) >= sizes["MemTotal"]


def _is_runnable(stat: Path) -> bool:
    """The state, in `man proc_pid_stat` the first field behind the name: R, or D for a read of memory or disk."""
    return stat.read_text().rpartition(")")[2].split()[0] in "RD"
