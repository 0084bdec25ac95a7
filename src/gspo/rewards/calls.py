"""A call of a reward function on its way, and a scoring process with the calls that it was given."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gspo.groups import Outcome
from gspo.rewards.errors import RewardError
from gspo.rewards.process import Process, Target

__all__ = ["Call", "Worker"]


@dataclass(eq=False)
class Call:
    """A request.

    Attributes:
        target: the function.
        kwargs: what it is called with; None: it is only loaded.
        done: its `Outcome`, or what a process said of the function that it loaded.
        alone: no other call may be in its process, so that it is known whose fault it is if that dies.
        started: when it began, by the monotonic clock; None: it is queued, here or in its process.
    """

    target: Target
    kwargs: dict[str, Any] | None
    done: Future[Any] = field(default_factory=Future)
    alone: bool = False
    started: float | None = None

    def fail(self, error: str) -> None:
        """Ends it with this error."""
        if self.kwargs is None:
            self.done.set_exception(RewardError(error))
        else:
            self.done.set_result(Outcome(error=f"{self.target.label}: {error}" if self.target.label else error))

    def fail_to_load(self, error: str, *, names_file: bool = False) -> None:
        """Ends it since its function cannot be loaded, by an error that names the user's file already or does not."""
        if self.kwargs is None:
            self.fail(error if names_file else f"{self.target.spec.get('file', self.target.name)}: {error}")
        else:
            self.fail(f"cannot be loaded: {error}")


class Worker:
    """A process and what it was given.

    Attributes:
        process: the process.
        loading: the function that it loads and since when.
        held: calls that wait for that.
        calls: calls that were sent to it, by number, in this order.
        alone: its call must be its only one.
        output: the file that it prints to.
    """

    def __init__(self, process: Process) -> None:
        self.process = process
        self.loading: tuple[Target, float] | None = None
        self.held: list[Call] = []
        self.calls: dict[int, Call] = {}
        self.alone = False
        self.output: Path | None = None

    @property
    def num_calls(self) -> int:
        """How many calls it has."""
        return len(self.held) + len(self.calls)
