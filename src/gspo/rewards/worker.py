"""The process that scores: reads requests, calls functions, answers one JSON line each, and ends when its input ends.

A request is a length of four bytes and a pickle that gspo made of

    ("output", path)                 what functions print goes to the end of this file
    ("load", target)                 {"function": "module:name"} or {"file", "name", "kwargs", "source", "path"}
    ("call", number, name, kwargs, limit)

The reply to `load` is {"takes": keywords or null, "is_async": bool} or {"failed": text, "names_file": bool}; that to
`call` is {"number": n} with the fields of an `Outcome`, and "spent" where the process should not be used again. Plain
functions are called one after the other in the main thread, as a script's are; coroutines run at the same time, each
within `limit` seconds. Nothing here loads torch.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import pickle
import resource
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from gspo.rewards.errors import RewardError, describe
from gspo.rewards.loading import is_async, load_function, parameters_of
from gspo.rewards.returned import read_result

__all__ = ["main"]

# Beyond the memory limit, for the description of the MemoryError that it caused.
_SPARE = 64 << 20


def main() -> None:
    """Serves requests until the input ends. The argument is the memory that the process may take, in bytes."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    # What a function reads or prints must not be a request or a reply.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They come to the whole process group and are the parent's to handle, which still needs the scores of its step.
        signal.signal(number, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed is kept if it is killed
    with suppress(OSError):
        # If the machine's memory is used up, the kernel ends this process, not the one that trains.
        Path("/proc/self/oom_score_adj").write_text("500")
    _Server(requests, replies, int(sys.argv[1])).serve()
    os._exit(0)  # without waiting for threads that a function left behind


class _Server:
    def __init__(self, requests: BinaryIO, replies: Any, max_bytes: int) -> None:
        self._requests, self._replies = requests, replies
        self._process = os.getpid()
        self._functions: dict[str, tuple[Callable[..., Any], str | None]] = {}
        # Of what the process writes to, not of its addresses: libraries reserve many times what they use.
        _, self._hard = resource.getrlimit(resource.RLIMIT_DATA)
        self._max_bytes = max_bytes if self._hard == resource.RLIM_INFINITY else min(max_bytes, self._hard)
        self._limit_memory(0)

    def serve(self) -> None:
        while request := self._read():
            kind, *rest = request
            if kind == "output":
                self._redirect(*rest)
            elif kind == "load" and self._load(*rest):
                return asyncio.run(self._serve_coroutines())
            elif kind == "call":
                number, name, kwargs, _ = rest
                self._reply(number, self._call(name, kwargs))
        return None

    async def _serve_coroutines(self) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        running: set[asyncio.Task[None]] = set()

        def start(number: int, name: str, kwargs: dict[str, Any], limit: float) -> None:
            task = loop.create_task(self._await(number, name, kwargs, limit))
            running.add(task)
            task.add_done_callback(running.discard)

        def read() -> None:
            while request := self._read():
                if request[0] == "output":
                    self._redirect(request[1])
                else:
                    loop.call_soon_threadsafe(start, *request[1:])
            os._exit(0)

        threading.Thread(target=read, daemon=True).start()
        await ended.wait()

    def _read(self) -> tuple[Any, ...] | None:
        head = self._requests.read(4)
        if len(head) < 4:
            return None
        request: tuple[Any, ...] = pickle.loads(self._requests.read(int.from_bytes(head, "big")))
        return request

    def _redirect(self, path: str) -> None:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.close(file)

    def _load(self, target: dict[str, Any]) -> bool:
        """Finds a function and says what it takes; whether it is a coroutine."""
        try:
            if "function" in target:
                name = target["function"]
                module, _, attribute = name.partition(":")
                function, file = getattr(import_module(module), attribute), None
            else:
                name, file = target["name"], target["file"]
                sys.path.extend(entry for entry in target["path"] if entry not in sys.path)
                function = load_function(file, name, target["kwargs"], target["source"])
            takes, awaits = parameters_of(function), is_async(function) and "file" in target
        except BaseException as error:
            self._leave_if_forked()
            # The frames are those of the import, not of the function.
            text = str(error) if isinstance(error, RewardError) else describe(error.with_traceback(None))
            self._write({"failed": text, "names_file": isinstance(error, RewardError)})
            return False
        self._functions[name] = function, file
        self._write({"takes": None if takes is None else sorted(takes), "is_async": awaits})
        return awaits

    def _call(self, name: str, kwargs: dict[str, Any]) -> dict[str, Any]:
        function, file = self._functions[name]
        try:
            result = function(**kwargs)
            if inspect.isawaitable(result):
                result = asyncio.run(_finish(result))
            return read_result(result)
        except BaseException as error:  # an exit() in the function, too, is this response's error
            return self._failed(error, file)

    async def _await(self, number: int, name: str, kwargs: dict[str, Any], limit: float) -> None:
        function, file = self._functions[name]
        task = asyncio.ensure_future(self._call_coroutine(function, kwargs, file))
        finished, _ = await asyncio.wait({task}, timeout=limit)
        if not finished:
            task.cancel()
            self._reply(number, {"error": f"timed out after {limit:g} s (reward.timeout)"})
        else:
            self._reply(number, {"error": "cancelled itself"} if task.cancelled() else task.result())

    async def _call_coroutine(
        self, function: Callable[..., Any], kwargs: dict[str, Any], file: str | None
    ) -> dict[str, Any]:
        try:
            return read_result(await function(**kwargs))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # an exit() would end the loop, and with it the calls around this one
            return self._failed(error, file)

    def _failed(self, error: BaseException, file: str | None) -> dict[str, Any]:
        self._leave_if_forked()
        if not isinstance(error, MemoryError):
            return {"error": describe(error, file)}
        self._limit_memory(_SPARE)
        limit = f"more than the {self._max_bytes / 2**30:g} GiB of reward.max_memory_gb"
        return {"error": f"{describe(error, file)}: it takes {limit}", "spent": True}

    def _limit_memory(self, spare: int) -> None:
        soft = self._max_bytes + spare
        resource.setrlimit(resource.RLIMIT_DATA, (soft if self._hard < 0 else min(soft, self._hard), self._hard))

    def _reply(self, number: int, fields: dict[str, Any]) -> None:
        self._leave_if_forked()
        self._write({"number": number, **fields})

    def _write(self, reply: dict[str, Any]) -> None:
        left = memoryview(json.dumps(reply).encode() + b"\n")
        while left:
            left = left[self._replies.write(left) :]

    def _leave_if_forked(self) -> None:
        """A copy of this process, made by a fork in a function, must not answer in its name."""
        if os.getpid() != self._process:
            os._exit(0)


async def _finish(result: Any) -> Any:
    return await result


if __name__ == "__main__":
    main()
