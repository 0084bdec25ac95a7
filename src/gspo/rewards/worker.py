"""The process that scores: reads one JSON request a line, answers one JSON reply a line, ends when its input ends.

A request is {"function": "module:name", "kwargs": {...}, "limit": seconds}; without kwargs it only loads the function.
The reply is {"result": what it returned} or {"error": text}. Nothing here loads torch.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from importlib import import_module
from typing import Any

__all__ = ["main"]

# What a symbolic computation may take before it fails with MemoryError instead of starving the training.
_MAX_BYTES = 4 << 30
# Beyond the parent's own limit, so that the parent, which can say what happened, comes first.
_GRACE = 1.0


def main() -> None:
    """Serves requests until the input ends."""
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a scorer prints must not be read as a reply
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # They come to the whole process group and are the parent's to handle, which still needs the scores of its step;
        # the end of input follows.
        signal.signal(number, signal.SIG_IGN)
    # The kernel's own way to end a process: it also ends one that a parent, killed in the middle, left computing.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = _MAX_BYTES if hard == resource.RLIM_INFINITY else min(_MAX_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    for line in sys.stdin.buffer:
        replies.write(json.dumps(_serve(json.loads(line))).encode() + b"\n")


def _serve(request: dict[str, Any]) -> dict[str, Any]:
    signal.setitimer(signal.ITIMER_REAL, request["limit"] + _GRACE)
    try:
        module, _, name = request["function"].partition(":")
        function = getattr(import_module(module), name)
        if "kwargs" not in request:
            return {"result": None}
        result = function(**request["kwargs"])
        json.dumps(result)
        return {"result": result}
    except MemoryError:
        return {"error": f"ran out of memory (a scoring process may take {_MAX_BYTES >> 30} GiB)"}
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    main()
