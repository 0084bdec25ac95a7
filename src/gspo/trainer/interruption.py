"""A run that is asked to stop (Ctrl-C, SIGTERM, a closed terminal): the step is finished and saved first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from gspo.checkpoint import newest_step
from gspo.signals import Stopped, handled, let_go_of_terminal
from gspo.trainer.run import Run

__all__ = ["interruptible"]


@contextmanager
def interruptible(run: Run) -> Iterator[None]:
    """Within it the first signal lets the step finish, with a checkpoint; a second one stops at once.

    Raises:
        Stopped: it was ended in one of these ways; says where, and what the same command goes on from.
    """
    asked: list[int] = []

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGHUP:
            let_go_of_terminal()
        if asked:
            raise Stopped(number, _at_once(run))
        asked.append(number)
        run.stop_asked = True
        with suppress(RuntimeError):  # the signal came in the middle of a write to the same terminal
            run.console.notice("stopping after this step, with a checkpoint; press Ctrl-C again to stop at once")

    first = run.step
    try:
        with handled(handle):
            yield
    except KeyboardInterrupt as error:
        if isinstance(error, Stopped):
            raise
        raise Stopped(signal.SIGINT, _at_once(run)) from error
    finally:
        run.stop_asked = False
    if asked:
        raise Stopped(asked[0], _where(run, first))


def _at_once(run: Run) -> str:
    if run.step >= run.total_steps:
        return f"at once, after the last step{_goes_on(run)}"
    return f"at once, in step {run.step + 1} of {run.total_steps}{_goes_on(run)}"


def _where(run: Run, first: int) -> str:
    """Where a run that was asked to stop has ended."""
    if run.only_validates:
        return "after its validation"
    if run.step >= run.total_steps:
        return f"just as the run had finished: all {run.total_steps} steps are done"
    if run.step == first:
        return f"before step {first + 1} of {run.total_steps}{_goes_on(run)}"
    return f"after step {run.step} of {run.total_steps}{_goes_on(run)}"


def _goes_on(run: Run) -> str:
    step, trainer = newest_step(run.folder), run.config.trainer
    if step is None:
        return "; no checkpoint was written yet: the same command begins again"
    if trainer.resume_mode != "auto":
        return f"; with trainer.resume_mode=auto it goes on from the checkpoint after step {step}"
    return f"; the same command goes on from the checkpoint after step {step}"
