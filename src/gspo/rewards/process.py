"""A scoring process, seen from the one that trains: started, sent requests, read from and killed; never waited for."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gspo

__all__ = ["Guardian", "Process", "Target"]


# What is behind a signal that says nothing to who has not written C.
_CAUSES: dict[int, str] = {
    signal.SIGSEGV: ": a recursion deeper than the stack, or a crash in a library's own code",
    signal.SIGABRT: ": a library gave up",
}


@dataclass(frozen=True)
class Target:
    """A function that scoring processes call.

    Attributes:
        name: "module:name", or the name of a function of the user's file.
        spec: what a process needs to find it (see `gspo.rewards.worker`).
        label: what its errors start with; empty: nothing.
    """

    name: str
    spec: dict[str, Any] = field(hash=False, compare=False)
    label: str = ""


class Guardian:
    """The process that ends the scoring processes when this one is gone."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("guardian.py"))
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", script, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # neither Ctrl-C nor a signal to this process's group reaches it
        )

    def tell(self, sign: str, pid: int) -> None:
        """`+`: watch over the group of this process; `-`: it has ended."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{sign}{pid}\n".encode())

    def close(self) -> None:
        """Ends it, when all that it watched over has ended; it does not see that where a fork holds its input open."""
        assert self._process.stdin is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()


class Process:
    """One scoring process, the leader of a group of its own with all that its functions start.

    Attributes:
        loaded: names of the functions that it has found.
    """

    def __init__(self, guardian: Guardian, max_bytes: int, *, quiet: bool) -> None:
        """Starts it.

        Args:
            guardian: told of it.
            max_bytes: memory that it may take.
            quiet: what is printed is dropped; else it goes to this process's standard error.

        Raises:
            OSError: it cannot be started.
        """
        package = str(Path(gspo.__file__).parents[1])
        search = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "gspo.rewards.worker", str(max_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            bufsize=0,
            start_new_session=True,
            # One thread each, and the same order of sets and thus of sympy's terms in every process and run.
            env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self.pid = self._process.pid
        self.requests, self.replies = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._guardian = guardian
        guardian.tell("+", self.pid)
        os.set_blocking(self.requests, False)
        self._unsent, self._unread = bytearray(), b""
        self.loaded: set[str] = set()

    def send(self, request: tuple[Any, ...], *, more: bool = False) -> None:
        """Sends a request, as far as it can be sent at once; `flush` sends the rest, or all of it where `more` follows.

        Raises:
            Exception: one of its values cannot be pickled.
        """
        body = pickle.dumps(request, protocol=pickle.HIGHEST_PROTOCOL)
        self._unsent += len(body).to_bytes(4, "big") + body
        if not more:
            self.flush()

    def flush(self) -> None:
        """Sends what is left. A process that has died takes nothing; the end of its replies tells of it."""
        try:
            while self._unsent:
                del self._unsent[: os.write(self.requests, self._unsent)]
        except BlockingIOError:
            pass
        except BrokenPipeError:
            self._unsent.clear()

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def read(self) -> list[dict[str, Any]]:
        """The replies that have come.

        Raises:
            EOFError: it has ended, or what it wrote is no reply.
        """
        part = os.read(self.replies, 1 << 16)
        if not part:
            raise EOFError
        *lines, self._unread = (self._unread + part).split(b"\n")
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:  # a function wrote where replies are written
            raise EOFError from error

    @property
    def has_ended(self) -> bool:
        """Also where a fork of it still holds the other end of its replies."""
        return self._process.poll() is not None

    def end(self) -> str:
        """Kills it with all that it started, takes back what it held and says how it ended."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        code = self._process.wait()
        self._guardian.tell("-", self.pid)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        if code >= 0:
            return f"ended by itself with code {code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"was ended by {known.get(-code, f'signal {-code}')}{_CAUSES.get(-code, '')}"
