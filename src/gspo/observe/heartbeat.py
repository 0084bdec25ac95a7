"""A line about what a run is doing, where it has said nothing for a while: so that a long wait is no silence."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from gspo.observe.sparkline import duration

__all__ = ["Heartbeat"]

# Seconds without a line: before the first, how much longer before each further one, and at most.
_FIRST, _GROWTH, _MOST = 10.0, 1.5, 30.0
# In training, once it is known how long a step takes: a step may take so many times as long before there is a line.
_LATE, _LATE_LEAST = 2.0, 60.0
_POLL = 0.5  # seconds

# What the phases of a run are called in a line.
_WORDS = {
    "data": "reading the data",
    "load": "loading the model",
    "step": "working",
    "gen": "sampling",
    "reward": "scoring",
    "old_log_prob": "old log-probabilities",
    "ref": "the reference's log-probabilities",
    "values": "the critic's values",
    "adv": "advantages",
    "update_critic": "updating the critic",
    "update_actor": "updating the policy",
    "testing": "validating",
    "save_checkpoint": "saving a checkpoint",
    "export": "writing the model",
    "report": "writing the report",
}
# These may take long at any time; all others are parts of a step.
_OUTSIDE = ("data", "load", "testing", "save_checkpoint", "export", "report")


class Heartbeat:
    """What a run is doing now, and a line about it after some seconds of silence.

    Args:
        say: prints a line.
        now: the seconds' source.

    Attributes:
        usual: seconds that a step takes, once it is known.
        left: seconds that the run still takes, once they are known.
    """

    def __init__(self, say: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._say, self._now = say, now
        self._phase, self._where, self._unit = "", "", ""
        self._began = self._spoke = now()
        self._wait = _FIRST
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.usual: float | None = None
        self.left: float | None = None

    def phase(self, name: str) -> None:
        """What begins now; empty: nothing that is worth a line."""
        if name != self._phase:
            self._phase, self._unit, self._began = name, "", self._now()

    def step(self, where: str) -> None:
        """Which step runs now, as text."""
        self._where = where

    def count(self, done: int, total: int) -> None:
        """How many responses of the phase have ended."""
        self._unit = f"{done} of {total} responses"

    def spoke(self) -> None:
        """Something was printed: the silence begins anew."""
        self._spoke, self._wait = self._now(), _FIRST

    @property
    def doing(self) -> str:
        """What runs now and for how long; empty where there is nothing to say."""
        if not self._phase:
            return ""
        words = _WORDS.get(self._phase, self._phase)
        parts = [words, self._unit, duration(self._now() - self._began)]
        return ", ".join(filter(None, parts))

    def due(self) -> str:
        """The line that is due now; empty where there was one a short while ago."""
        wait = self._wait
        if self.usual is not None and self._phase not in _OUTSIDE:
            wait = max(wait, _LATE_LEAST, _LATE * self.usual)
        if not self._phase or self._now() - self._spoke < wait:
            return ""
        self._spoke, self._wait = self._now(), min(_GROWTH * self._wait, _MOST)
        where = "" if self._phase in _OUTSIDE or not self._where else f"{self._where}: "
        left = "" if self.left is None else f"; about {duration(self.left)} left"
        return f"{where}{self.doing}{left}"

    def __enter__(self) -> Heartbeat:
        self._spoke = self._now()
        self._thread = threading.Thread(target=self._beat, name="gspo-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No line comes after this. May be called again."""
        thread, self._thread = self._thread, None
        self._ended.set()
        if thread is not None:
            thread.join()

    def _beat(self) -> None:
        while not self._ended.wait(_POLL):
            if line := self.due():
                with suppress(ValueError):  # the output was closed
                    self._say(line)
