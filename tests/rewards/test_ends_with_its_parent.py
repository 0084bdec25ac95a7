"""A program that scores is ended while functions hang: nothing of it outlives it, and Ctrl-C does not wait."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Holds the interpreter's lock, in a process that it starts too: neither answers to anything but a kill.
HANGS = """
import os, subprocess, sys, time
from pathlib import Path
LOOP = "while True: pass"
def compute_score(solution_str, **_):
    if solution_str == "sleeps":
        Path("pids-0").write_text("0 0")
        time.sleep(60)
    child = subprocess.Popen([sys.executable, "-c", LOOP])
    Path(f"pids-{os.getpid()}").write_text(f"{os.getpid()} {child.pid}")
    exec(LOOP)
"""
PROGRAM = """
import os, signal, sys
from pathlib import Path
from gspo.config.schema_data import CustomRewardConfig, RewardConfig, RewardFunctionConfig
from gspo.groups import Group, Prompt, Response
from gspo.rewards import RewardManager
functions = [RewardFunctionConfig(name="custom"), RewardFunctionConfig(name="format", kwargs={"pattern": "(a|aa)+"})]
inline = sys.argv[1] == "inline"
responses = [Response([1], [0.0], "sleeps" if inline else "a" * 60 + "!", "stop") for _ in range(2)]
config = RewardConfig(timeout=60, functions=functions)
with RewardManager(config, CustomRewardConfig(path="hangs.py", inline=inline)) as manager:
    if not inline and os.fork() == 0:  # holds the pipes of the program open, as a process that loads data does
        Path("fork").write_text(str(os.getpid()))
        signal.pause()
    manager.score([Group(Prompt("f:0", (1,), "q", "s"), responses)])
"""


@pytest.mark.parametrize("ends", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_nothing_outlives_the_program_by_a_second(ends: signal.Signals, tmp_path: Path) -> None:
    program = _start(tmp_path, "processes")
    pids = _wait_for_pids(tmp_path, 2)
    fork = int((tmp_path / "fork").read_text())
    started = {*pids, *_descendants(program.pid)} - {fork}
    assert len(started) >= 7  # two processes for each pool, what those of the file started, and two guardians
    try:
        assert _took_to_end(program, ends) < 5  # under a second where the machine is free; a call takes 60
        deadline = time.monotonic() + 1.5
        while any(map(_runs, started)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [_command(pid) for pid in started if _runs(pid)] == []
    finally:
        os.kill(fork, signal.SIGKILL)


def test_ctrl_c_does_not_wait_for_a_call_in_this_process(tmp_path: Path) -> None:
    program = _start(tmp_path, "inline")
    _wait_for_pids(tmp_path, 1)
    assert _took_to_end(program, signal.SIGINT) < 5


def _start(folder: Path, how: str) -> "subprocess.Popen[bytes]":
    (folder / "hangs.py").write_text(HANGS)
    return subprocess.Popen([sys.executable, "-c", PROGRAM, how], cwd=folder, stderr=subprocess.DEVNULL)


def _took_to_end(program: "subprocess.Popen[bytes]", ends: signal.Signals) -> float:
    program.send_signal(ends)
    start = time.monotonic()
    try:
        assert program.wait(20) != 0
    finally:
        program.kill()
        program.wait()
    return time.monotonic() - start


def _wait_for_pids(folder: Path, files: int) -> list[int]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [file.read_text().split() for file in folder.glob("pids-*")]
        if len(found) == files and all(len(pair) == 2 for pair in found):
            return [int(pid) for pair in found for pid in pair]
        time.sleep(0.05)
    raise AssertionError("the program did not begin to score")


def _descendants(pid: int) -> list[int]:
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [each for child in children for each in (child, *_descendants(child))]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _runs(process: int) -> bool:
    """A zombie, where no one reaps orphans, has ended."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"
