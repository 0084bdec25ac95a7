"""A signal is heard while the main thread waits for another one, also where it comes before that wait begins."""

import _thread
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from gspo.signals import first_done, result_of


@pytest.mark.parametrize("wait", [result_of, lambda future: first_done([future])], ids=["result", "first"])
def test_a_signal_that_wakes_no_one_is_heard(wait: Callable[[Future[None]], object]) -> None:
    future: Future[None] = Future()
    # As a signal that comes before a lock is slept on: Python knows of it, and no system call is interrupted.
    strikes = threading.Timer(0.2, _thread.interrupt_main)
    ends = threading.Timer(20.0, future.set_result, [None])
    strikes.start()
    ends.start()
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        wait(future)
    ends.cancel()
    assert time.monotonic() - start < 10


def test_what_a_future_raised_is_raised() -> None:
    future: Future[None] = Future()
    future.set_exception(TimeoutError("its own"))
    with pytest.raises(TimeoutError, match="its own"):
        result_of(future)


def test_the_first_that_is_done_does_not_wait_for_the_others() -> None:
    done, other = Future[int](), Future[int]()
    threading.Timer(0.3, done.set_result, [3]).start()
    assert first_done([done, other]) == ({done}, {other})
    assert result_of(done) == 3
    assert first_done([]) == (set(), set())
