"""What other processes use of the cores: from made figures of a kernel, and from its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gspo.observe.cores import CoreClock

TICKS = os.sysconf("SC_CLK_TCK")


def kernel(proc: Path, busy: float, own: float, child: float) -> None:
    """A /proc with one core of this process that was busy for so many seconds, and one that is none of its."""
    core = min(os.sched_getaffinity(0))
    user, system = int(busy * TICKS) - 5, 5
    lines = ["cpu  9 9 9 9", f"cpu{core} {user} 0 {system} 777 888 0 0 0 {user} 0", "cpu9999 5000 0 0 0 0 0 0 0 0 0"]
    (proc / "stat").write_text("\n".join(lines) + "\nctxt 1\n")
    for process, seconds, children in ((os.getpid(), own, "71 72"), (71, child, "")):
        task = proc / str(process) / "task" / "1"
        task.mkdir(parents=True, exist_ok=True)
        (task / "children").write_text(children)
        fields = ["S", *["0"] * 10, str(int(seconds * TICKS)), "0", "0", "0", *["0"] * 5]
        (proc / str(process) / "stat").write_text(f"{process} (a name) with) {' '.join(fields)}\n")


def test_busy_cores_less_this_process_and_its_children(tmp_path: Path) -> None:
    times = iter([100.0, 110.0, 120.0])
    kernel(tmp_path, busy=50.0, own=20.0, child=10.0)  # process 72 has ended in between
    clock = CoreClock(tmp_path, now=lambda: next(times))
    kernel(tmp_path, busy=59.0, own=22.0, child=11.0)
    assert clock.pop() == {"perf/cores_others": pytest.approx(0.6)}
    kernel(tmp_path, busy=61.0, own=25.0, child=11.0)  # rounding of the kernel's ticks does not make it negative
    assert clock.pop() == {"perf/cores_others": 0.0}


def test_a_system_that_does_not_tell(tmp_path: Path) -> None:
    clock = CoreClock(tmp_path / "nothing")
    assert clock.pop() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="Linux's /proc")
def test_another_process_is_seen_and_a_child_is_not() -> None:
    busy = "import time; end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    child = subprocess.Popen([sys.executable, "-c", busy])
    try:
        clock = CoreClock()
        before = clock._used(child.pid)
        deadline = time.monotonic() + 10
        while clock._used(child.pid) < before + TICKS // 10 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert child.pid in set(clock._family(os.getpid()))
        assert clock._used(child.pid) >= before + TICKS // 10
        assert 0.0 <= clock.pop()["perf/cores_others"] <= len(os.sched_getaffinity(0)) + 0.1
    finally:
        child.kill()
        child.wait()
