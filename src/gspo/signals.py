"""The signals that ask a command to stop: Ctrl-C, `kill` (a scheduler's time limit), and a terminal that is closed."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

__all__ = ["Stopped", "first_done", "handled", "is_importing", "leave_at_once", "let_go_of_terminal", "result_of"]

_T = TypeVar("_T")

_STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SHOW_CURSOR = "\x1b[?25h"
# A signal that comes in the instant before a thread goes to sleep on a lock does not wake it. No wait for another
# thread is longer than these seconds at a time, so that the signal is heard.
_SLICE = 0.1


class Stopped(KeyboardInterrupt):
    """A command that was asked to stop.

    Attributes:
        number: the signal.
        said: where it was left, for the user; empty where there is nothing to say.
    """

    def __init__(self, number: int, said: str = "") -> None:
        super().__init__(said)
        self.number, self.said = number, said


@contextmanager
def handled(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    """Within it `handler(number, frame)` is called where one of these signals comes.

    A signal that the process ignores stays ignored: nohup, or a shell that starts a job in the background, wanted that.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in _STOPPING if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    before = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def result_of(future: Future[_T]) -> _T:
    """The result of a future, waited for so that a signal is heard at any time; raises what the future raised."""
    while not future.done():
        wait([future], timeout=_SLICE)
    return future.result()


def first_done(futures: Collection[Future[_T]]) -> tuple[set[Future[_T]], set[Future[_T]]]:
    """Waits until one is done, so that a signal is heard at any time; returns those that are done and the others."""
    while True:
        done, others = wait(futures, timeout=_SLICE, return_when=FIRST_COMPLETED)
        if done or not others:
            return done, others


def let_go_of_terminal() -> None:
    """After a hangup: what is printed to the terminal, which is gone, is dropped; each write would be an error."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            os.dup2(devnull, descriptor)
    os.close(devnull)


def is_importing(frame: FrameType | None) -> bool:
    """Whether the code of this frame runs for an import."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def leave_at_once(number: int) -> None:
    """Ends the process here, with the terminal's cursor as it was; children find their input closed and end."""
    if sys.stdout.isatty():
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
    os._exit(128 + number)
