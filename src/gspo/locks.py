"""Files that one process holds at a time. The lock ends with its process, however that ends.

filelock takes the system's own lock, and on network folders without one a file in its place, whose holder's death it
finds out.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Held", "held"]


class Held(Exception):
    """Another process has the lock.

    Attributes:
        holder: that process, for messages: its number, and its machine where that is another.
    """

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Holds a lock, whose file stays when it is let go.

    Args:
        path: of the lock's file, which has the holder's number and machine; its folder exists.

    Raises:
        Held: another process, or another holder in this one, has it.
        OSError: the file cannot be made.
    """
    from filelock import FileLock, Timeout  # here, as only what writes needs it

    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        path.open("a").close()  # filelock takes a file that cannot be made for one that is held: this has the error
        raise Held(_holder(path)) from None
    try:
        _sign(path)
        yield
    finally:
        lock.release()


def _sign(path: Path) -> None:
    """Writes who holds the lock into its file, as filelock itself does where the system has no lock."""
    number = str(os.getpid())
    if path.read_text(encoding="utf-8").split("\n")[0] != number:
        path.write_text(f"{number}\n{socket.gethostname()}\n", encoding="utf-8")


def _holder(path: Path) -> str:
    try:
        number, machine, *_ = [*path.read_text(encoding="utf-8").split("\n"), ""]
    except (OSError, UnicodeDecodeError, ValueError):
        return "another process"
    if not number.isdigit():
        return "another process"
    return f"process {number}" if machine in ("", socket.gethostname()) else f"process {number} on {machine}"
