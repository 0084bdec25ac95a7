"""A process that ends the scoring processes when the one that started them is gone, however it went.

It reads `+PID` and `-PID`, a line each, and kills the groups of those that are left when its input ends or its parent,
whose number is its argument, has died. It runs without gspo, so that it is there at once.
"""

from __future__ import annotations

import os
import select
import signal
import sys

__all__ = ["main"]

# Seconds between two looks for the parent: its end of the input stays open in a fork of it, one that loads data say.
_LOOK = 0.2


def main() -> None:
    """Waits for the end of the parent."""
    parent, groups, rest = int(sys.argv[1]), set[int](), b""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while os.getppid() == parent:
        if not select.select([0], [], [], _LOOK)[0]:
            continue
        read = os.read(0, 1 << 16)
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            (groups.add if line.startswith(b"+") else groups.discard)(int(line[1:]))
        if not read:
            break
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main()
