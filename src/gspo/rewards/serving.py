"""The processes of a pool: which call goes where, what has answered, what has hung or died. All of it in one thread."""

from __future__ import annotations

import selectors
import time
from collections import deque
from pathlib import Path
from typing import Any

from gspo.groups import Outcome
from gspo.rewards.bell import Bell
from gspo.rewards.calls import Call, Worker
from gspo.rewards.concurrency import TICK, Concurrency, computes, memory_is_free
from gspo.rewards.errors import describe
from gspo.rewards.process import Guardian, Process

__all__ = ["Serving"]

# Loading a function's libraries takes seconds, a model that it judges with longer, and much longer on a busy machine.
_LOAD_LIMIT = 300.0
# Beyond the limit that a coroutine is given: when it is up, the event loop itself does not answer.
_GRACE = 1.0
# A process is handed this many calls of a function whose calls take less than so many seconds: one to run, and others
# for when it has answered, or else it would wait for the next as long as it computes.
_HANDED, _CHEAP = 16, 0.005
# Seconds between two looks whether a process has ended of which a fork still holds its pipes.
_LOOK = 0.25


class Serving:
    """Calls functions in processes.

    Args:
        num_workers: calls that compute at the same time.
        timeout: seconds that a call may take.
        max_bytes: memory that a process may take.
        most: calls at the same time where they wait rather than compute.
        quiet: what functions print is dropped while there is no `output`; else it goes to standard error.
        bell: rung by other threads when there is something to do.

    Attributes:
        queue: calls that wait; other threads append to it.
        shares: whether a process takes many calls at a time, which a coroutine can.
        output: the file to whose end goes what functions print.
    """

    def __init__(self, num_workers: int, timeout: float, max_bytes: int, most: int, *, quiet: bool, bell: Bell) -> None:
        self.queue: deque[Call] = deque()
        self.shares = False
        self.output: Path | None = None
        self._num_workers, self._timeout = num_workers, timeout
        self._max_bytes, self._quiet, self._bell = max_bytes, quiet, bell
        self._concurrency = Concurrency(num_workers, most)
        self._guardian: Guardian | None = None
        self._workers: list[Worker] = []
        self._number = 0
        self._cheap = False
        self._looked = 0.0
        self._selector = selectors.DefaultSelector()
        bell.hang(self._selector)

    def turn(self) -> None:
        """Gives calls to processes, waits until one answers or the bell rings, and ends what takes too long."""
        heard = self._bell.rings
        while self.queue and (worker := self._choose(self.queue[0])) is not None:
            self._give(worker, self.queue.popleft())
        if self.queue and self._cheap and not self.shares:
            self._hand_ahead()
        events = self._bell.wait(self._selector, self._wait(), heard)
        for key, mask in events:
            if key.data in self._workers:
                self._serve(key.data, mask)
        self._look(bool(events))

    def _wait(self) -> float | None:
        """Seconds until something must be looked at."""
        now = time.monotonic()
        ends = [end - now for worker in self._workers if (end := self._end_of(worker)) is not None]
        if not ends:
            return TICK if self.queue else None
        return max(0.0, min(*ends, TICK if self.queue else _LOOK))

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
                self.queue.popleft().fail(f"the scoring process cannot be started: {error}")
            return None
        self._workers.append(worker)
        self._selector.register(worker.process.replies, selectors.EVENT_READ, worker)
        return worker

    def _give(self, worker: Worker, call: Call) -> None:
        worker.alone = call.alone
        if worker.output != self.output:
            worker.output = self.output
            worker.process.send(("output", str(self.output)))
        if call.target.name in worker.process.loaded and call.kwargs is not None:
            self._send(worker, call)
            return
        worker.held.append(call)
        if worker.loading is None:
            worker.loading = (call.target, time.monotonic())
            worker.process.send(("load", call.target.spec))
            self._watch(worker)

    def _hand_ahead(self) -> None:
        share = min(_HANDED, 1 + len(self.queue) // len(self._workers))
        for worker in self._workers:
            if not worker.calls or len(worker.calls) > share // 2:
                continue
            while self.queue and len(worker.calls) < share and self.queue[0].target.name in worker.process.loaded:
                self._send(worker, self.queue.popleft(), ahead=True)
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
            self.queue.extendleft(reversed(worker.calls.values()))

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
        if not has_news and self.queue:
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
            self.queue.appendleft(call)

    def _discard(self, worker: Worker) -> str:
        self._workers.remove(worker)
        for descriptor in (worker.process.requests, worker.process.replies):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)
        return worker.process.end()

    def fail(self, error: BaseException) -> None:
        """Ends every call with this error."""
        calls = [call for worker in self._workers for call in (*worker.held, *worker.calls.values())]
        for call in (*calls, *self.queue):
            if not call.done.done():
                call.done.set_exception(error)

    def end(self) -> None:
        """Ends the processes; calls that have not begun are cancelled."""
        for worker in list(self._workers):
            how = self._discard(worker)
            for call in (*worker.held, *worker.calls.values()):
                if call.started is None:
                    call.done.cancel()
                elif not call.done.done():
                    call.fail(f"the scoring process {how}")
        for call in self.queue:
            call.done.cancel()
        if self._guardian is not None:
            self._guardian.close()
        self._selector.close()
