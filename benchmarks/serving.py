"""Processes that wait for a command, run it and answer with one line of JSON, so that two frameworks can take turns.

A command is one line, a name and an argument with a space between them. A worker waits for the next one in `read`,
which uses no processor. This file needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Replies", "Worker", "environment", "serve"]

_LOG_TAIL = 30  # lines of a worker's log that its error shows


class Replies:
    """A worker's side of the conversation; commands come from standard input."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Replies]:
        """Keeps standard output for replies; what libraries print there goes to standard error."""
        out = sys.stdout
        with redirect_stdout(sys.stderr):
            yield cls(out)

    def commands(self) -> Iterator[tuple[str, str]]:
        """(name, argument) of each command, until standard input ends."""
        for line in sys.stdin:
            name, _, argument = line.strip().partition(" ")
            yield name, argument

    def send(self, reply: Mapping[str, Any]) -> None:
        """Answers the last command."""
        print(json.dumps(reply), file=self._out, flush=True)


def serve(handlers: Mapping[str, Callable[[str], Mapping[str, Any]]], replies: Replies) -> None:
    """Answers commands by their handlers until standard input ends; the first reply says that it is ready."""
    replies.send({"ready": True})
    for name, argument in replies.commands():
        replies.send(handlers[name](argument))


class Worker:
    """The other side: a process that is asked for one thing at a time.

    Args:
        name: for messages and the log.
        command: what to run.
        log: file of its standard error.
        env: its environment.

    Raises:
        RuntimeError: (on any call) the process has ended; shows the end of its log.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._errors = log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, env=dict(env)
        )

    def __enter__(self) -> Worker:
        self._reply()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.kill()
        with self._errors, self._process:  # closes its pipes, which lets a worker end, and waits for it
            pass

    def ask(self, command: str) -> dict[str, Any]:
        """The reply to a command."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and `_reply` says why
            print(command, file=self._process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            tail = self._log.read_text(encoding="utf-8").splitlines()[-_LOG_TAIL:]
            ended = f"the worker {self.name} has ended with code {code} (-9: killed, for want of memory perhaps)"
            raise RuntimeError("\n".join([f"{ended}; the end of {self._log}:", *tail]))
        reply: dict[str, Any] = json.loads(line)
        return reply


def environment(threads: int, wait_policy: str) -> dict[str, str]:
    """This process's environment for a worker of so many threads, which look nothing up on the network.

    Args:
        threads: of each worker.
        wait_policy: `usual`: idle threads of OpenMP do what they do without a setting, spin for a moment and then
            sleep; `passive`: they sleep at once; `active`: they spin.
    """
    own = {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if wait_policy != "usual":
        own["OMP_WAIT_POLICY"] = wait_policy
    return {**os.environ, **own}
