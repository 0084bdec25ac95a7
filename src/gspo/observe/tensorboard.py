"""Scalars for TensorBoard, written at once.

torch's and tensorboard's own writers hand them to a thread: what a full disk says there comes as that thread's
traceback, and steps later, without the file's name.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

__all__ = ["TensorboardLogger"]

# What the first event of a file says of the format of the others.
_FORMAT = "brain.Event:2"


class TensorboardLogger:
    """Scalars in the run folder's `tensorboard`; on resume they hide the steps that are done again.

    Nothing happens before the first step is logged: a resume that is refused leaves the folder as it was.

    Args:
        run_dir: the run's folder.
        resume_step: the step that the run goes on from; None for a new run, which hides whatever was there.
        amends: figures are added to steps that are logged already: no step is hidden.
    """

    def __init__(self, run_dir: Path, resume_step: int | None = None, *, amends: bool = False) -> None:
        purge_step = None if amends else 0 if resume_step is None else resume_step + 1
        self._open = partial(_Events, Path(run_dir) / "tensorboard", purge_step)
        self._events: _Events | None = None

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """See `Logger`.

        Raises:
            OSError: the disk does not take it; names the file.
        """
        if self._events is None:
            self._events = self._open()
        self._events.add(metrics, step)

    def close(self) -> None:
        """See `Logger`."""
        if self._events is not None:
            self._events.close()


class _Events:
    """An event file; one record is one event."""

    def __init__(self, folder: Path, purge_step: int | None) -> None:
        # Imported here because the import takes a second, and only runs that use it should wait.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        folder.mkdir(parents=True, exist_ok=True)
        # It reads the files of a folder in the order of their names, which begin with the second in its own, too.
        second, rest = divmod(time.time_ns(), 10**9)
        self.path = folder / f"events.out.tfevents.{second:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
        self._framed = RecordWriter
        self._write(Event(wall_time=time.time(), file_version=_FORMAT))
        if purge_step is not None:
            start = SessionLog(status=SessionLog.START)
            self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def add(self, metrics: Mapping[str, float], step: int) -> None:
        """All scalars of a step, as one event."""
        values = [self._summary.Value(tag=name, simple_value=float(value)) for name, value in metrics.items()]
        self._write(self._event(wall_time=time.time(), step=step, summary=self._summary(value=values)))

    def close(self) -> None:
        """Nothing is pending."""
        self._file.close()

    def _write(self, event: Any) -> None:
        record = BytesIO()
        self._framed(record).write(event.SerializeToString())
        whole, left = self._file.tell(), memoryview(record.getvalue())
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:  # which does not know its file
            with suppress(OSError):
                self._file.truncate(whole)  # no part of a record stays
            raise OSError(error.errno, error.strerror, str(self.path)) from error
