"""How many calls run at the same time follows from what the running ones do."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from gspo.rewards.concurrency import Concurrency, computes, thread_computes


def test_calls_that_wait_get_more_company_and_those_that_compute_none() -> None:
    concurrency = Concurrency(2, 20)
    limits = []
    for running, computing in [(1, 0), (2, 1), (2, 2), (2, 0), (4, 0), (8, 0), (16, 0), (20, 0), (20, 1), (20, 2)]:
        concurrency.observe(running, computing)
        limits.append(concurrency.limit)
    assert limits == [2, 2, 2, 4, 8, 16, 20, 20, 20, 15]
    for _ in range(20):
        concurrency.observe(20, 2)
    assert concurrency.limit == 2


def _mostly(look: Callable[[], bool]) -> float:
    found = []
    for _ in range(40):
        found.append(look())
        time.sleep(0.005)
    return sum(found) / len(found)


@pytest.mark.skipif(sys.platform != "linux", reason="the state of a process is read from /proc")
@pytest.mark.parametrize("through_a_child", [False, True])
@pytest.mark.parametrize(("body", "expected"), [("while True: pass", 1.0), ("import time; time.sleep(60)", 0.0)])
def test_a_process_that_computes_is_told_from_one_that_waits(body: str, expected: float, through_a_child: bool) -> None:
    source = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {body!r}])" if through_a_child else body
    process = subprocess.Popen([sys.executable, "-c", source], start_new_session=True)
    try:
        time.sleep(0.5)
        assert _mostly(lambda: computes(process.pid)) == pytest.approx(expected, abs=0.2)
    finally:
        os.killpg(process.pid, 9)
        process.wait()


def test_a_thread_that_waits_and_one_that_is_gone() -> None:
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    assert thread.native_id is not None
    assert _mostly(lambda: thread_computes(thread.native_id or 0)) < 0.2
    ended.set()
    thread.join()
    assert not thread_computes(thread.native_id)
