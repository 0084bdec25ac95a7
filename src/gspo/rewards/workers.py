"""A pool of processes that score, each of which is killed and replaced when it hangs or dies."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from gspo.groups import Outcome
from gspo.rewards.bell import Bell
from gspo.rewards.calls import Call
from gspo.rewards.process import Target
from gspo.rewards.serving import Serving
from gspo.signals import result_of

__all__ = ["WorkerPool"]

# Seconds that ending the processes may take.
_END_LIMIT = 5.0


class WorkerPool:
    """Calls functions in processes, each call within `timeout` seconds of its own start.

    A call that takes longer has its process killed and becomes an error; so does one whose process dies. The calls
    next to it and after it are not affected. A plain function has a process to itself. Coroutines share theirs: where
    one of those dies or hangs, its calls are made again, each in a process to itself.

    Processes start with the first call and end with the pool or, within a second, with this process.
    """

    def __init__(
        self,
        num_workers: int,
        timeout: float,
        *,
        max_memory_gb: float = 4.0,
        most: int | None = None,
        quiet: bool = True,
    ) -> None:
        """Starts nothing.

        Args:
            num_workers: calls that compute at the same time.
            timeout: seconds that a call may take.
            max_memory_gb: GiB that a process may take.
            most: calls at the same time where they wait rather than compute; None: `num_workers`.
            quiet: what functions print is dropped until `keep_output`; else it goes to standard error.
        """
        self._settings = num_workers, timeout, int(max_memory_gb * 2**30), most or num_workers
        self._quiet = quiet
        self._output: Path | None = None
        self._bell: Bell | None = None
        self._serving: Serving | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = self._ended = False

    def submit(self, target: str | Target, **kwargs: Any) -> Future[Outcome]:
        """Calls a function with these arguments, which it gets copies of.

        Args:
            target: "module:name", or where a function of the user's is.
        """
        if isinstance(target, str):
            target = Target(target, {"function": target})
        return self._add(Call(target, kwargs))

    def load(self, target: Target) -> dict[str, Any]:
        """Loads a function in a first process; returns what it `takes` (keywords, or None) and whether it `is_async`.

        Raises:
            RewardError: it cannot be loaded.
        """
        reply: dict[str, Any] = result_of(self._add(Call(target, None)))
        return reply

    def keep_output(self, file: Path) -> None:
        """From the next call on what functions print goes to the end of this file, which is made then."""
        self._output = file.absolute()
        if self._serving is not None:
            self._serving.output = self._output

    def close(self) -> None:
        """Ends the processes at once; calls that have not begun are cancelled."""
        with self._lock:
            self._closed, thread = True, self._thread
            if self._bell is not None and thread is not None and thread.is_alive() and not self._ended:
                self._bell.ring(always=True)
        if thread is not None:
            thread.join(_END_LIMIT)  # a Ctrl-C may have left it waiting for the lock of a future

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _add(self, call: Call) -> Future[Any]:
        with self._lock:
            if self._closed:
                raise RuntimeError("the pool is closed")
            if self._serving is None or self._bell is None:
                self._bell = Bell()
                self._serving = Serving(*self._settings, quiet=self._quiet, bell=self._bell)
                self._serving.output = self._output
                work = partial(self._run, self._serving, self._bell)
                self._thread = threading.Thread(target=work, name="rewards", daemon=True)
                self._thread.start()
        self._serving.queue.append(call)
        self._bell.ring()
        return call.done

    def _run(self, serving: Serving, bell: Bell) -> None:
        """The pool's own thread."""
        try:
            while not self._closed:
                serving.turn()
        except BaseException as error:
            self._closed = True
            serving.fail(error)
            raise
        finally:
            serving.end()
            with self._lock:
                self._ended = True
                bell.close()
            with suppress(OSError):
                if self._output is not None and self._output.stat().st_size == 0:
                    self._output.unlink()
