"""What a run does when it is asked to stop, in processes of their own: Ctrl-C, SIGTERM, a closed terminal."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from messages import names

from gspo.api import Trainer
from gspo.checkpoint import load_checkpoint
from gspo.cli import main
from gspo.config import load_config
from gspo.signals import Stopped, handled, is_importing
from gspo.trainer import assembly
from gspo.trainer.validation import Validation

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]
Start = Callable[..., subprocess.Popen[str]]

# Steps of this reward take long enough to be interrupted in.
_SLOW = """
import os
import time

def compute_score(data_source, solution_str, ground_truth, extra_info):
    time.sleep(float(os.environ.get("SECONDS_A_SCORE", "0.1")))
    return float(len(solution_str))
"""


@pytest.fixture
def start(run_overrides: Overrides, tmp_path: Path) -> Iterator[Start]:
    """Starts a run of 30 steps whose reward takes its time; it is killed where a test has left it."""
    (tmp_path / "slow.py").write_text(_SLOW)
    settings = run_overrides(
        "trainer.total_training_steps=30", f"custom_reward_function.path={tmp_path / 'slow.py'}", "reward.num_workers=4"
    )
    processes = []

    def begin(*further: str, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "gspo", "train", *settings, *further]
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        processes.append(subprocess.Popen(command, text=True, start_new_session=True, **options))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def until_step(folder: Path, step: int) -> None:
    """Waits until the run has logged this step."""
    for _ in range(2400):
        file = folder / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.is_file() else []
        if lines and json.loads(lines[-1])["step"] >= step:
            return
        time.sleep(0.05)
    raise AssertionError(f"the run in {folder} has not come to step {step}")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_to_the_whole_group_ends_the_step_and_saves(
    number: signal.Signals, code: int, start: Start, tmp_path: Path
) -> None:
    process = start()
    until_step(tmp_path / "run", 1)
    os.killpg(process.pid, number)  # as a terminal and schedulers do: the processes that score get it too
    output, said = process.communicate(timeout=120)
    assert process.returncode == code, said
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("global_step_*")
    step = load_checkpoint(checkpoint).step
    assert names(said, "gspo: stopped", f"after step {step} of 30", "same command")
    assert "stopping after this step" in output
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["step"], last["reward/errors"]) == (step, 0.0)
    assert (tmp_path / "run" / "report.html").is_file()
    assert not (tmp_path / "run" / "huggingface").exists()


def test_a_second_one_leaves_at_once_and_says_that_nothing_was_saved(start: Start, tmp_path: Path) -> None:
    process = start(env={**os.environ, "SECONDS_A_SCORE": "0.5"})
    until_step(tmp_path / "run", 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert time.monotonic() - began < 20
    assert process.returncode == 143
    assert names(said, "gspo: stopped", "at once, in step", "no checkpoint")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_terminal_that_is_closed(start: Start, tmp_path: Path) -> None:
    main_end, terminal = pty.openpty()
    process = start(
        "trainer.logger=[console]", stdin=terminal, stdout=terminal, stderr=terminal, preexec_fn=_own_terminal
    )
    os.close(terminal)
    seen = b""
    until_step(tmp_path / "run", 1)
    os.set_blocking(main_end, False)
    while part := _read(main_end):
        seen += part
    assert b"\x1b[?25l" in seen  # the live view, which hides the cursor
    os.close(main_end)
    assert process.wait(120) == 129
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("global_step_*")
    assert load_checkpoint(checkpoint).step >= 1


def test_the_cursor_comes_back_where_it_leaves_at_once(start: Start, tmp_path: Path) -> None:
    main_end, terminal = pty.openpty()
    process = start(
        "trainer.logger=[console]",
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        preexec_fn=_own_terminal,
        env={**os.environ, "SECONDS_A_SCORE": "0.5"},
    )
    os.close(terminal)
    parts: list[bytes] = []
    reader = threading.Thread(target=lambda: parts.extend(iter(lambda: _read(main_end), b"")))
    reader.start()  # a terminal that is not read blocks who writes to it
    until_step(tmp_path / "run", 1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    reader.join(10)
    os.close(main_end)
    seen = b"".join(parts)
    assert seen.rfind(b"\x1b[?25h") > seen.rfind(b"\x1b[?25l") >= 0
    assert b"gspo: stopped at once" in seen


def _own_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # nothing more for now, or the other end is closed
        return b""


@pytest.mark.parametrize("wait", [0.3, 0.8, 1.5])
def test_ctrl_c_in_the_first_seconds_is_one_line(wait: float, start: Start) -> None:
    process = start()
    time.sleep(wait)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130
    assert names(said, "gspo: stopped")


def test_one_within_an_import_does_not_unwind_through_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "looks_around.py").write_text("import sys\nframe = sys._getframe()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_importing(importlib.import_module("looks_around").frame)
    assert not is_importing(sys._getframe())
    assert not is_importing(None)


def test_a_signal_that_the_process_ignores_stays_ignored() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with handled(lambda number, _: heard.append(number)):
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert heard == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_one_in_the_last_step_says_that_the_run_has_finished(
    run_overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = assembly.train_step

    def step(run: Any, number: int) -> Any:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(run, number)

    monkeypatch.setattr(assembly, "train_step", step)
    assert main(["train", *run_overrides("trainer.save_hf=true")]) == 143
    assert names(capsys.readouterr().err, "gspo: stopped", "all 2 steps are done")
    assert (tmp_path / "run" / "huggingface" / "config.json").is_file()


def test_what_the_same_command_does_next_is_true_of_its_resume_mode(
    run_overrides: Overrides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    original = assembly.train_step

    def step(run: Any, number: int) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return original(run, number)

    monkeypatch.setattr(assembly, "train_step", step)
    assert main(["train", *run_overrides("trainer.resume_mode=disable")]) == 130
    assert names(capsys.readouterr().err, "after step 1 of 2", "trainer.resume_mode=auto", "after step 1")


def test_one_in_the_first_validation_trains_no_step(
    run_overrides: Overrides, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Validation.__call__

    def validate(self: Validation, step: int) -> dict[str, float]:
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, step)

    monkeypatch.setattr(Validation, "__call__", validate)
    config = load_config(None, None, run_overrides(f"data.val_files={tiny_data / 'test.jsonl'}"))
    with Trainer(config) as trainer, pytest.raises(Stopped) as caught:
        trainer.train()
    assert names(caught, "before step 1 of 2", "no checkpoint")
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [0]


def test_a_run_saves_every_so_many_minutes_where_no_steps_are_set(run_overrides: Overrides, tmp_path: Path) -> None:
    def steps(name: str, *settings: str) -> list[int]:
        folder = f"trainer.default_local_dir={tmp_path / name}"
        assert main(["train", *run_overrides("trainer.total_training_steps=4", folder, *settings)]) == 0
        return sorted(load_checkpoint(path).step for path in (tmp_path / name / "checkpoints").glob("global_step_*"))

    assert steps("hours") == [4]
    assert steps("never", "trainer.save_interval_minutes=null") == [4]
    assert steps("always", "trainer.save_interval_minutes=0") == [3, 4]
    assert steps("set", "trainer.save_interval_minutes=0", "trainer.save_freq=2") == [2, 4]
