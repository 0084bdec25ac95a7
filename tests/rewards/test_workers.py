import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gspo.groups import Outcome
from gspo.rewards.workers import WorkerPool

MODULE = """
import os, signal, sys, time
def double(x): return 2.0 * x
def hang(): time.sleep(60)
def compute(): return float(9 ** (9 ** 9) % 7)  # one call inside C, which no signal handler interrupts
def crash(): os.kill(os.getpid(), signal.SIGSEGV)
def leave(): os._exit(3)
def exits(): sys.exit("bye")
def fails(): raise KeyError("k")
def prints(): print("noise"); sys.stdout.flush(); return 1.0
def hog(): return float(len(bytearray(1 << 40)))
def odd(): return object()
def process(): return os.getpid()
def loaded(): return {"score": float("torch" in sys.modules)}
"""


@pytest.fixture
def module(write_module: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_module(MODULE, "worker_functions.py")
    monkeypatch.setenv("PYTHONPATH", str(path.parent))
    return path


@pytest.fixture
def pool(module: Path) -> Iterator[WorkerPool]:  # noqa: ARG001 - the module must be there first
    with WorkerPool(2, timeout=1) as pool:
        yield pool


def test_results_come_back_in_place(pool: WorkerPool) -> None:
    futures = [pool.submit("worker_functions:double", x=x) for x in range(20)]
    assert [future.result() for future in futures] == [Outcome(2.0 * x) for x in range(20)]


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("hang", "timed out after 1 s (reward.timeout)"),
        ("compute", "timed out after 1 s (reward.timeout)"),
        (
            "crash",
            "the scoring process was ended by SIGSEGV: a recursion deeper than the stack, or a crash in a library's "
            "own code",
        ),
        ("leave", "the scoring process ended by itself with code 3"),
        ("exits", "SystemExit: bye (worker_functions.py, line 8)"),
        ("fails", "KeyError: 'k' (worker_functions.py, line 9)"),
        ("hog", "MemoryError (worker_functions.py, line 11): it takes more than the 4 GiB of reward.max_memory_gb"),
        ("odd", "returned a object: return a number, or a dict with `score`"),
        ("absent", "cannot be loaded: AttributeError: module 'worker_functions' has no attribute 'absent'"),
    ],
)
def test_a_bad_call_is_an_error_and_the_calls_around_it_are_not(name: str, error: str, pool: WorkerPool) -> None:
    before = [pool.submit("worker_functions:double", x=1) for _ in range(3)]
    bad = pool.submit(f"worker_functions:{name}")
    after = [pool.submit("worker_functions:double", x=1) for _ in range(3)]
    assert bad.result() == Outcome(error=error)
    assert {future.result().value for future in [*before, *after]} == {2.0}


def test_a_module_that_is_not_there(pool: WorkerPool) -> None:
    assert pool.submit("no_such:f").result().error == "cannot be loaded: ModuleNotFoundError: No module named 'no_such'"


def test_a_hang_is_stopped_in_time(pool: WorkerPool) -> None:
    assert pool.submit("worker_functions:double", x=1).result() == Outcome(2.0)
    start = time.monotonic()
    hung = [pool.submit("worker_functions:hang") for _ in range(2)]
    assert [future.result().error for future in hung] == ["timed out after 1 s (reward.timeout)"] * 2
    assert time.monotonic() - start < 4


def test_what_a_scorer_prints_is_not_taken_for_a_reply(pool: WorkerPool) -> None:
    assert pool.submit("worker_functions:prints").result() == Outcome(1.0)


def test_the_processes_load_no_torch(pool: WorkerPool) -> None:
    assert pool.submit("gspo.rewards.math:score_math", solution_str="3", ground_truth="3").result().value == 1.0
    assert pool.submit("worker_functions:loaded").result() == Outcome(0.0)


def test_closing_ends_the_processes_and_a_running_call(module: Path) -> None:  # noqa: ARG001
    pool = WorkerPool(1, timeout=60)
    process = int(pool.submit("worker_functions:process").result().value or 0)
    hung = pool.submit("worker_functions:hang")
    waiting = pool.submit("worker_functions:hang")
    time.sleep(0.1)
    pool.close()
    assert hung.result().error == "the scoring process was ended by SIGKILL"
    assert waiting.cancelled()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@pytest.mark.parametrize("busy", [False, True])
def test_processes_end_with_a_parent_that_is_killed(busy: bool, module: Path) -> None:
    program = (
        "from gspo.rewards.workers import WorkerPool; import os, signal, time\n"
        "pool = WorkerPool(1, timeout=1)\n"
        "print(int(pool.submit('worker_functions:process').result().value), flush=True)\n"
        f"future = pool.submit('worker_functions:compute') if {busy} else None\n"
        "time.sleep(0.1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, cwd=module.parent)
    process, deadline = int(killed.stdout), time.monotonic() + 10
    while _runs(process):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(process: int) -> bool:
    """A zombie, where no one reaps orphans, has ended."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
