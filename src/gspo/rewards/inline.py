"""Calls of a function in this process: few at a time that compute, many that wait; none can be killed."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from gspo.groups import Outcome
from gspo.rewards.base import to_outcome
from gspo.rewards.concurrency import TICK, Concurrency, thread_computes
from gspo.rewards.errors import describe
from gspo.rewards.loading import is_async

__all__ = ["InlineCalls"]

# Beyond the limit that a coroutine is given: when it is up, the event loop itself does not answer.
_GRACE = 1.0
_IN_BACKGROUND = "; the call cannot be stopped and goes on in the background"
_BLOCKED = " and blocked the event loop: await what takes long, or make it a plain def"


class _Call:
    """One call. `thread` is the native id of the thread that it runs in."""

    def __init__(self, arguments: dict[str, Any]) -> None:
        self.arguments = arguments
        self.done: Future[Outcome] = Future()
        self.started = 0.0
        self.thread = 0


class InlineCalls:
    """Runs a function in daemon threads, or a coroutine on an event loop in one, each call within its own limit.

    Calls that compute share the interpreter's lock, so that only one of them runs at a time; where calls wait there are
    more, up to `most`. The limit counts from a call's own start. No thread is waited for, not at the end of the
    program either.
    """

    def __init__(self, function: Callable[..., Any], name: str, timeout: float, most: int) -> None:
        self._function, self._name, self._timeout = function, name, timeout
        code = getattr(inspect.unwrap(function) if inspect.isfunction(function) else function, "__code__", None)
        self._file: str | None = getattr(code, "co_filename", None)
        self._is_async = is_async(function)
        self._concurrency = Concurrency(1, most)
        self._queue: deque[_Call] = deque()
        self._running: set[_Call] = set()
        self._changed = threading.Condition()
        self._watches = self._closed = False
        self._idle = 0
        self._loop: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None

    def submit(self, arguments: dict[str, Any]) -> Future[Outcome]:
        """Calls the function with these arguments, which are its own to change."""
        call = _Call(arguments)
        with self._changed:
            self._queue.append(call)
            if not self._watches:
                self._watches = True
                threading.Thread(target=self._watch, name="rewards", daemon=True).start()
            self._changed.notify_all()
        return call.done

    def close(self) -> None:
        """Cancels what has not begun, and waits for nothing."""
        with self._changed:
            self._closed = True
            for call in self._queue:
                call.done.cancel()
            self._queue.clear()
            if self._loop is not None:
                self._loop[0].call_soon_threadsafe(self._loop[0].stop)
            self._changed.notify_all()

    def _watch(self) -> None:
        """Starts calls, gives up on those that take too long, and learns how many may run."""
        with self._changed:
            while not self._closed:
                self._start_calls()
                self._changed.wait(self._seconds_to_next())
                now = time.monotonic()
                self._give_up(now)
                self._observe(now)

    def _seconds_to_next(self) -> float | None:
        if self._queue:
            return TICK
        ends = [call.started + self._allowed - time.monotonic() for call in self._running]
        return max(0.0, min(ends)) if ends else None

    @property
    def _allowed(self) -> float:
        return self._timeout + _GRACE if self._is_async else self._timeout

    def _start_calls(self) -> None:
        if self._is_async:
            while self._queue and len(self._running) < self._concurrency.limit:
                self._start_coroutine(self._take())
            return
        missing = min(len(self._queue), self._concurrency.limit - len(self._running) - self._idle)
        for _ in range(missing):
            self._idle += 1
            threading.Thread(target=self._serve, name="reward", daemon=True).start()

    def _take(self) -> _Call:
        call = self._queue.popleft()
        call.started = time.monotonic()
        self._running.add(call)
        return call

    def _serve(self) -> None:
        """A thread: calls as long as there is something to call, and ends; also where its call was given up on."""
        while True:
            with self._changed:
                self._idle -= 1
                if not self._queue or self._closed or len(self._running) >= self._concurrency.limit:
                    return
                call = self._take()
                call.thread = threading.get_native_id()
            outcome = self._call(call.arguments)
            with self._changed:
                if call not in self._running:
                    return
                self._finish(call, outcome)
                self._idle += 1
                if not self._queue:
                    self._changed.notify_all()

    def _call(self, arguments: dict[str, Any]) -> Outcome:
        try:
            result = self._function(**arguments)
            if inspect.isawaitable(result):
                result = asyncio.run(_wait_for(result))
            return self._named(to_outcome(result))
        except BaseException as error:  # an exit() in the function, too, is this response's error
            return Outcome(error=f"{self._name}: {describe(error, self._file)}")

    def _named(self, outcome: Outcome) -> Outcome:
        return outcome if outcome.error is None else Outcome(error=f"{self._name}: {outcome.error}")

    def _finish(self, call: _Call, outcome: Outcome) -> None:
        """Under the lock."""
        if call in self._running:
            self._running.discard(call)
            call.done.set_result(outcome)

    def _give_up(self, now: float) -> None:
        late = [call for call in self._running if now - call.started >= self._allowed]
        for call in late:
            how = _BLOCKED if self._is_async else _IN_BACKGROUND
            text = f"{self._name}: timed out after {self._timeout:g} s (reward.timeout){how}"
            self._finish(call, Outcome(error=text))
        if late and self._is_async:
            # The others on the loop wait for it as well: they are called again on another one.
            self._loop = None
            self._queue.extendleft(self._running)
            self._running.clear()

    def _observe(self, now: float) -> None:
        if not self._queue:
            return
        under_way = [call for call in self._running if now - call.started > TICK / 2]
        threads = {call.thread for call in under_way}
        self._concurrency.observe(len(under_way), sum(map(thread_computes, threads)))

    def _start_coroutine(self, call: _Call) -> None:
        if self._loop is None:
            loop = asyncio.new_event_loop()
            self._loop = loop, threading.Thread(target=_run_loop, args=(loop,), name="reward-loop", daemon=True)
            self._loop[1].start()
        loop, thread = self._loop
        call.thread = thread.native_id or 0
        asyncio.run_coroutine_threadsafe(self._limited(call, call.started), loop)

    async def _limited(self, call: _Call, start: float) -> None:
        task = asyncio.ensure_future(self._call_coroutine(call.arguments))
        finished, _ = await asyncio.wait({task}, timeout=self._timeout)
        if not finished:
            task.cancel()
            outcome = Outcome(error=f"timed out after {self._timeout:g} s (reward.timeout)")
        else:
            outcome = Outcome(error="cancelled itself") if task.cancelled() else task.result()
        outcome = self._named(outcome)
        with self._changed:
            if call.started == start:  # else it was called again on another loop
                self._finish(call, outcome)
            self._changed.notify_all()

    async def _call_coroutine(self, arguments: dict[str, Any]) -> Outcome:
        try:
            return to_outcome(await self._function(**arguments))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # an exit() would end the loop, and with it the calls around this one
            return Outcome(error=describe(error, self._file))


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


async def _wait_for(result: Any) -> Any:
    return await result
