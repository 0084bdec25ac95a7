"""One holder at a time: among processes, after a kill, and where the system has no lock of its own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock._unix as unix
import pytest

import gspo
from gspo.locks import Held, held


@contextmanager
def another(path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock."""
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom gspo.locks import held\n"
        "with held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(gspo.__file__).parents[1])}
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with another(path) as process:
        with pytest.raises(Held) as caught, held(path):
            pass
        assert caught.value.holder == f"process {process.pid}"
        assert path.read_text().split("\n")[0] == str(process.pid)  # who asks in vain leaves the file as it is
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(path):
            assert path.read_text() == f"{os.getpid()}\n{socket.gethostname()}\n"


def test_it_is_let_go_at_the_end_and_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(ZeroDivisionError), held(path):
        raise ZeroDivisionError
    with held(path), pytest.raises(Held), held(path):
        pass
    with held(path):
        pass


@pytest.mark.filterwarnings("ignore:flock not supported")
def test_a_folder_without_the_system_s_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network folders are: a file in its place, which names its holder."""

    def missing(_: int) -> bool:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(unix, "lock_fd_nonblocking", missing)
    path = tmp_path / ".lock"
    with held(path):
        assert path.read_text().split("\n")[0] == str(os.getpid())
        with pytest.raises(Held) as caught, held(path):
            pass
        assert caught.value.holder == f"process {os.getpid()}"
    with held(path):
        pass


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        ("7\nelsewhere\n", "process 7 on elsewhere"),
        ("7\n", "process 7"),
        ("", "another process"),
        ("x\n", "another process"),
    ],
)
def test_the_holder_is_told_with_its_machine(content: str, holder: str, tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held(path):
        path.write_text(content)
        with pytest.raises(Held) as caught, held(path):
            pass
    assert caught.value.holder == holder
