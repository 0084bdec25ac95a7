"""Wakes a thread that waits for processes when another one has something for it."""

from __future__ import annotations

import os
import selectors

__all__ = ["Bell"]

_Event = tuple[selectors.SelectorKey, int]


class Bell:
    """A pipe that a waiting thread listens to; it is written to where that thread waits, and else only counted.

    Attributes:
        rings: how often it was rung.
    """

    def __init__(self) -> None:
        self.rings = 0
        self._is_waited_for = False
        self._heard, self._rung = os.pipe()

    def hang(self, selector: selectors.BaseSelector) -> None:
        """Makes a selector listen to it."""
        selector.register(self._heard, selectors.EVENT_READ)

    def ring(self, *, always: bool = False) -> None:
        """Wakes the thread that waits.

        Args:
            always: also where it seems not to wait: a Ctrl-C may have cut a ring short.
        """
        self.rings += 1
        if self._is_waited_for or always:
            self._is_waited_for = False
            os.write(self._rung, b"w")

    def wait(self, selector: selectors.BaseSelector, seconds: float | None, heard: int) -> list[_Event]:
        """What has happened to the files of a selector, and to the bell itself, whose event has no data.

        Args:
            selector: that listens to it.
            seconds: how long to wait at most; None: until something happens.
            heard: the rings that the caller has heeded; where there were more, it does not wait.
        """
        self._is_waited_for = True  # who rings from here on writes
        events = selector.select(0.0 if self.rings != heard else seconds)
        self._is_waited_for = False
        if any(key.fd == self._heard for key, _ in events):
            os.read(self._heard, 1 << 12)
        return events

    def close(self) -> None:
        """Nobody rings it any more."""
        self._is_waited_for = False
        os.close(self._heard)
        os.close(self._rung)
