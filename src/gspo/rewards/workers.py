"""A pool of processes that score, each of which is killed and replaced when it hangs or dies."""

from __future__ import annotations

import os
import selectors
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

from gspo.groups import Outcome
from gspo.rewards.calls import Call, Worker
from gspo.rewards.concurrency import TICK, Concurrency, computes, memory_is_free
from gspo.rewards.errors import describe
from gspo.rewards.process import Guardian, Process, Target
from gspo.signals import result_of

__all__ = ["WorkerPool"]

# Loading a function's libraries takes seconds, a model that it judges with longer, and much longer on a busy machine.
_LOAD_LIMIT = 300.0
# Beyond the limit that a coroutine is given: when it is up, the event loop itself does not answer.
_GRACE = 1.0
# A process is handed this many calls of a function whose calls take less than so many seconds: one to run, and others
# for when it has answered, or else it would wait for the next as long as it computes.
_HANDED, _CHEAP = 16, 0.005
# Seconds that ending the processes may take.
_END_LIMIT = 5.0
# Seconds between two looks whether a process has ended of which a fork still holds its pipes.
_LOOK = 0.25


class WorkerPool:
    """Calls functions in processes, each call within `timeout` seconds of its own start.

    A call that takes longer has its process killed and becomes an error; so does one whose process dies. The calls
    next to it and after it are not affected. A plain function has a process to itself. Coroutines share theirs: where
    one of those dies or hangs, its calls are made again, each in a process to itself.

    Processes start with the first call and end with the pool or, within a second, with this process.

    Attributes:
        shares: whether a process takes many calls at a time, which a coroutine can.
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
        self.shares = False
        self._num_workers, self._timeout = num_workers, timeout
        self._max_bytes, self._quiet = int(max_memory_gb * 2**30), quiet
        self._output: Path | None = None
        self._concurrency = Concurrency(num_workers, most or num_workers)
        self._guardian: Guardian | None = None
        self._workers: list[Worker] = []
        self._queue: deque[Call] = deque()
        self._number = 0
        self._added = 0
        self._cheap = self._ended = False
        self._looked = 0.0
        self._selector = selectors.DefaultSelector()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = self._sleeps = False
        self._wakes, self._wake = -1, -1

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

    def close(self) -> None:
        """Ends the processes at once; calls that have not begun are cancelled."""
        with self._lock:
            self._closed, thread = True, self._thread
            if thread is not None and thread.is_alive() and not self._ended:
                os.write(self._wake, b"w")  # in any case: a Ctrl-C may have cut a wake-up short
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
            if self._thread is None:
                self._wakes, self._wake = os.pipe()
                self._selector.register(self._wakes, selectors.EVENT_READ)
                self._thread = threading.Thread(target=self._run, name="rewards", daemon=True)
                self._thread.start()
        self._queue.append(call)
        self._added += 1
        self._wake_up()
        return call.done

    def _wake_up(self) -> None:
        if self._sleeps:
            self._sleeps = False
            os.write(self._wake, b"w")

    # All below runs in the pool's own thread.

    def _run(self) -> None:
        try:
            while not self._closed:
                self._turn()
        except BaseException as error:
            self._closed = True
            self._fail_all(error)
            raise
        finally:
            self._end()

    def _turn(self) -> None:
        added = self._added
        while self._queue and (worker := self._choose(self._queue[0])) is not None:
            self._give(worker, self._queue.popleft())
        if self._queue and self._cheap and not self.shares:
            self._hand_ahead()
        self._sleeps = True  # who adds something from here on wakes this thread
        is_news = self._added != added or self._closed
        events = self._selector.select(0.0 if is_news else self._wait())
        self._sleeps = False
        for key, mask in events:
            if key.data is None:
                os.read(self._wakes, 1 << 12)
            elif key.data in self._workers:
                self._serve(key.data, mask)
        self._look(bool(events))

    def _wait(self) -> float | None:
        """Seconds until something must be looked at."""
        now = time.monotonic()
        ends = [end - now for worker in self._workers if (end := self._end_of(worker)) is not None]
        if not ends:
            return TICK if self._queue else None
        return max(0.0, min(*ends, TICK if self._queue else _LOOK))

    def _end_of(self, worker: Worker) -> float | None:
        """When the process is to be killed."""
        if worker.loading is not None:
            return worker.loading[1] + _LOAD_LIMIT
        allowed = self._timeout + _GRACE if self.shares else self._timeout
        return min((call.started + allowed for call in worker.calls.values() if call.started), default=None)

    def _choose(self, call: Call) -> Worker | None:
        """The process for a call, started where need be; None: it has to wait."""
        running = sum(worker.num_calls if self.shares else bool(worker.num_calls) for worker in self._workers)
        if running >= self._concurrency.limit:
            return None
        free = [worker for worker in self._workers if not worker.num_calls]
        for worker in free:
            if call.target.name in worker.process.loaded:
                return worker
        if free:
            return free[0]
        most = self._num_workers if self.shares and not call.alone else self._concurrency.limit
        if len(self._workers) < most and (len(self._workers) < self._num_workers or memory_is_free()):
            return self._start()
        shared = [worker for worker in self._workers if not worker.alone]
        return min(shared, key=lambda worker: worker.num_calls) if self.shares and shared and not call.alone else None

    def _start(self) -> Worker | None:
        try:
            if self._guardian is None:
                self._guardian = Guardian()
            worker = Worker(Process(self._guardian, self._max_bytes, quiet=self._quiet))
        except OSError as error:
            if not self._workers:
                self._queue.popleft().fail(f"the scoring process cannot be started: {error}")
            return None
        self._workers.append(worker)
        self._selector.register(worker.process.replies, selectors.EVENT_READ, worker)
        return worker

    def _give(self, worker: Worker, call: Call) -> None:
        worker.alone = call.alone
        if worker.output != self._output:
            worker.output = self._output
            worker.process.send(("output", str(self._output)))
        if call.target.name in worker.process.loaded and call.kwargs is not None:
            self._send(worker, call)
            return
        worker.held.append(call)
        if worker.loading is None:
            worker.loading = (call.target, time.monotonic())
            worker.process.send(("load", call.target.spec))
            self._watch(worker)

    def _hand_ahead(self) -> None:
        share = min(_HANDED, 1 + len(self._queue) // len(self._workers))
        for worker in self._workers:
            if not worker.calls or len(worker.calls) > share // 2:
                continue
            while self._queue and len(worker.calls) < share and self._queue[0].target.name in worker.process.loaded:
                self._send(worker, self._queue.popleft(), ahead=True)
            worker.process.flush()
            self._watch(worker)

    def _send(self, worker: Worker, call: Call, *, ahead: bool = False) -> None:
        self._number += 1
        try:
            worker.process.send(("call", self._number, call.target.name, call.kwargs, self._timeout), more=ahead)
        except Exception as error:  # pickle passes on whatever a value's own methods raise
            call.fail(
                f"its row cannot be handed to another process ({describe(error)}): set "
                "custom_reward_function.inline=true"
            )
            return
        worker.calls[self._number] = call
        if not ahead:
            call.started = time.monotonic()
            self._watch(worker)

    def _watch(self, worker: Worker) -> None:
        """Asks to be told when a process takes the rest of a long request."""
        is_watched = worker.process.requests in self._selector.get_map()
        if worker.process.has_unsent and not is_watched:
            self._selector.register(worker.process.requests, selectors.EVENT_WRITE, worker)
        elif is_watched and not worker.process.has_unsent:
            self._selector.unregister(worker.process.requests)

    def _serve(self, worker: Worker, mask: int) -> None:
        if mask & selectors.EVENT_WRITE:
            worker.process.flush()
            self._watch(worker)
        if not mask & selectors.EVENT_READ:
            return
        try:
            replies = worker.process.read()
        except EOFError:
            self._died(worker)
            return
        for reply in replies:
            if worker not in self._workers:
                return
            if "number" in reply:
                self._answered(worker, reply)
            else:
                self._loaded(worker, reply)

    def _loaded(self, worker: Worker, reply: dict[str, Any]) -> None:
        assert worker.loading is not None
        (target, _), worker.loading = worker.loading, None
        held, worker.held = worker.held, []
        if "failed" not in reply:
            worker.process.loaded.add(target.name)
        for call in held:
            if call.target.name != target.name:
                self._give(worker, call)
            elif "failed" in reply:
                call.fail_to_load(reply["failed"], names_file=reply["names_file"])
            elif call.kwargs is None:
                self.shares = reply["is_async"]
                call.done.set_result(reply)
            else:
                self._send(worker, call)

    def _answered(self, worker: Worker, reply: dict[str, Any]) -> None:
        call = worker.calls.pop(reply.pop("number"), None)
        spent = reply.pop("spent", False)
        if call is not None:
            now = time.monotonic()
            self._cheap = call.started is not None and now - call.started < _CHEAP
            if not self.shares and worker.calls:
                next(iter(worker.calls.values())).started = now
            if "error" in reply and reply["error"] is not None:
                call.fail(reply["error"])
            else:
                call.done.set_result(Outcome(**reply))
        if spent and not self.shares:
            self._discard(worker)
            self._queue.extendleft(reversed(worker.calls.values()))

    def _look(self, has_news: bool) -> None:
        """Kills what takes too long, finds what has died unseen, and learns how many calls may run."""
        now = time.monotonic()
        for worker in list(self._workers):
            end = self._end_of(worker)
            if end is not None and now >= end:
                self._expired(worker)
        if not has_news and now - self._looked >= _LOOK:
            self._looked = now
            for worker in [worker for worker in self._workers if worker.process.has_ended]:
                self._died(worker)
        if not has_news and self._queue:
            self._observe(now)

    def _observe(self, now: float) -> None:
        under_way = [
            worker
            for worker in self._workers
            if (starts := [call.started for call in worker.calls.values() if call.started is not None])
            and now - max(starts) > TICK / 2
        ]
        computing = sum(worker.loading is not None for worker in self._workers)
        computing += sum(computes(worker.process.pid) for worker in under_way)
        running = sum(len(worker.calls) if self.shares else 1 for worker in under_way)
        self._concurrency.observe(running, computing)

    def _expired(self, worker: Worker) -> None:
        if worker.loading is not None:
            self._discard(worker)
            for call in worker.held:
                call.fail_to_load(f"did not load within {_LOAD_LIMIT:g} s: what it does when it is imported must end")
            return
        self._discard(worker)
        said = f"timed out after {self._timeout:g} s (reward.timeout)"
        if self.shares:
            said += " and blocked the event loop: await what takes long, or make it a plain def"
        self._blame(worker, said)

    def _died(self, worker: Worker) -> None:
        how = f"the scoring process {self._discard(worker)}"
        if worker.loading is not None:
            for call in worker.held:
                call.fail_to_load(f"{how} while it was imported")
            return
        self._blame(worker, how)

    def _blame(self, worker: Worker, error: str) -> None:
        """The call that a process went with has this error; what it was only handed ahead is called elsewhere.

        Of several coroutines it is not known which it was: they are called again, each in a process to itself.
        """
        calls = list(worker.calls.values())
        if calls and (not self.shares or len(calls) == 1):
            calls.pop(0).fail(error)
        for call in reversed(calls):
            call.alone, call.started = self.shares, None
            self._queue.appendleft(call)

    def _discard(self, worker: Worker) -> str:
        self._workers.remove(worker)
        for descriptor in (worker.process.requests, worker.process.replies):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        return worker.process.end()

    def _fail_all(self, error: BaseException) -> None:
        calls = [call for worker in self._workers for call in (*worker.held, *worker.calls.values())]
        for call in (*calls, *self._queue):
            if not call.done.done():
                call.done.set_exception(error)

    def _end(self) -> None:
        for worker in list(self._workers):
            how = self._discard(worker)
            for call in (*worker.held, *worker.calls.values()):
                if call.started is None:
                    call.done.cancel()
                elif not call.done.done():
                    call.fail(f"the scoring process {how}")
        for call in self._queue:
            call.done.cancel()
        if self._guardian is not None:
            self._guardian.close()
        self._selector.close()
        with self._lock:
            self._ended = True
            for descriptor in (self._wakes, self._wake):
                os.close(descriptor)
            self._sleeps = False
        with suppress(OSError):
            if self._output is not None and self._output.stat().st_size == 0:
                self._output.unlink()
