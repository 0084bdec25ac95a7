"""Ctrl-C while a run trains: the step is finished and saved first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gspo.trainer.run import Run

__all__ = ["interruptible"]


@contextmanager
def interruptible(run: Run) -> Iterator[None]:
    """Within it the first Ctrl-C lets the step finish and saves a checkpoint; then KeyboardInterrupt is raised.

    Outside the main thread, where Python delivers no signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[bool] = []

    def handle(number: int, frame: Any) -> None:
        if asked:
            signal.default_int_handler(number, frame)
        asked.append(True)
        run.console.notice("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    callbacks = run.callbacks
    before = signal.signal(signal.SIGINT, handle)
    run.callbacks = [*callbacks, lambda *_: bool(asked)]
    try:
        yield
    finally:
        run.callbacks = callbacks
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt
