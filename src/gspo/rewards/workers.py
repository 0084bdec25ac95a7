"""A pool of processes that score, each of which is killed and replaced when it hangs or dies."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import gspo
from gspo.groups import Outcome
from gspo.rewards.base import to_outcome

__all__ = ["WorkerPool"]

# Loading a scorer's libraries takes about a second; much more on a busy machine must not be taken for a hang.
_LOAD_LIMIT = 120.0


class WorkerPool:
    """Calls functions of importable modules in `num_workers` processes, each call within `timeout` seconds.

    A call that takes longer has its process killed and becomes an error; so does one whose process dies. The calls
    next to it and after it are not affected. Processes start with the first call and end with the pool or its parent.
    """

    def __init__(self, num_workers: int, timeout: float) -> None:
        self._timeout = timeout
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="reward-worker")
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        self._workers = [_Worker() for _ in range(num_workers)]
        for worker in self._workers:
            self._idle.put(worker)

    def submit(self, function: str, **kwargs: Any) -> Future[Outcome]:
        """Calls `function` ("module:name") with these arguments, which must be JSON."""
        return self._threads.submit(self._call, function, kwargs)

    def close(self) -> None:
        """Ends the processes; calls that have not begun are cancelled."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True)
        for worker in self._workers:
            worker.discard()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _call(self, function: str, kwargs: dict[str, Any]) -> Outcome:
        worker = self._idle.get()
        try:
            return worker.call(function, kwargs, self._timeout)
        finally:
            self._idle.put(worker)


class _Worker:
    """One process, started when it is needed. Used by one thread at a time."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._loaded: set[str] = set()

    def call(self, function: str, kwargs: dict[str, Any], timeout: float) -> Outcome:
        try:
            if self._process is None or self._process.poll() is not None:
                self._start()
            if function not in self._loaded:
                reply = self._exchange({"function": function, "limit": _LOAD_LIMIT}, _LOAD_LIMIT)
                if "error" in reply:
                    return Outcome(error=f"cannot be loaded: {reply['error']}")
                self._loaded.add(function)
            reply = self._exchange({"function": function, "kwargs": kwargs, "limit": timeout}, timeout)
        except TimeoutError as error:
            self.discard()
            return Outcome(error=str(error))
        except (BrokenPipeError, EOFError):
            return Outcome(error=f"the scoring process {self._death()}")
        return Outcome(error=reply["error"]) if "error" in reply else to_outcome(reply["result"])

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()

    def discard(self) -> None:
        """Kills the process and takes back what it held."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()

    def _start(self) -> None:
        self.discard()
        self._loaded.clear()
        package = str(Path(gspo.__file__).parents[1])
        search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gspo.rewards.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # One thread each, and the same order of sets and thus of sympy's terms in every process and run.
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )

    def _exchange(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """Sends a request and waits for its reply.

        Raises:
            TimeoutError: no reply came within `limit` seconds.
            EOFError, BrokenPipeError: the process died.
        """
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        descriptor, reply = self._process.stdout.fileno(), b""
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + limit
        message = memoryview(json.dumps(request).encode() + b"\n")
        while message:
            message = message[self._process.stdin.write(message) :]
        while not reply.endswith(b"\n"):
            left = deadline - time.monotonic()
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError(f"timed out after {limit:g} s")
            part = os.read(descriptor, 1 << 16)
            if not part:
                raise EOFError
            reply += part
        answer: dict[str, Any] = json.loads(reply)
        return answer

    def _death(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self.discard()
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended by itself with code {code}"
