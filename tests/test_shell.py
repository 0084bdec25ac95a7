"""Commands that messages print run where the user stands: each is held against the environment that it is to reach."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from gspo import shell


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment of its own with python, pip and gspo, each of which says its path; not on the PATH."""
    programs = tmp_path / "project with spaces" / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip", "gspo"):
        (programs / name).write_text('#!/bin/sh\necho "$0" "$@"\n')
        (programs / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return programs


def typed(command: str, folder: Path) -> str:
    """What a shell in a folder runs, as the program says it."""
    done = subprocess.run(["sh", "-c", command], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()


def test_off_the_path_a_command_has_its_path(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = environment.parent.parent
    monkeypatch.chdir(project)
    assert shell.gspo_command("config", "data") == ".venv/bin/gspo config data"
    assert typed(shell.gspo_command("config", "data"), project) == ".venv/bin/gspo config data"
    assert shell.pip_install("datasets") == ".venv/bin/pip install datasets"
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert typed(shell.gspo_command("config"), elsewhere) == f"{environment / 'gspo'} config"


def test_on_the_path_it_is_the_name(environment: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    assert shell.gspo_command("config", "data") == "gspo config data"
    assert shell.python_command() == "python"
    assert typed(shell.gspo_command("config"), tmp_path) == f"{environment / 'gspo'} config"


@pytest.mark.usefixtures("environment")
def test_another_environment_s_program_is_not_meant(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "gspo").write_text("#!/bin/sh\necho wrong\n")
    (other / "gspo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert typed(shell.gspo_command("config"), tmp_path) == "project with spaces/.venv/bin/gspo config"


def test_without_the_scripts_it_is_the_interpreter_s_module(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (environment / "gspo").unlink()
    (environment / "pip").unlink()
    monkeypatch.chdir(environment.parent.parent)
    assert shell.gspo_command("report", "runs/a b") == ".venv/bin/python -m gspo report 'runs/a b'"
    assert shell.pip_install("a>=1") == ".venv/bin/python -m pip install 'a>=1'"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, ["gspo[wandb]"]),
        ({"url": "file:///srv/my%20gspo", "dir_info": {}}, ["/srv/my gspo[wandb]"]),
        ({"url": "file:///srv/gspo", "dir_info": {"editable": True}}, ["-e", "/srv/gspo[wandb]"]),
        ({"url": "HERE", "dir_info": {"editable": True}}, ["-e", ".[wandb]"]),
        (
            {"url": "https://example.org/gspo.git", "vcs_info": {"vcs": "git", "commit_id": "a1"}},
            ["gspo[wandb] @ git+https://example.org/gspo.git"],
        ),
        (
            {"url": "https://example.org/gspo-0.1.0-py3-none-any.whl", "archive_info": {}},
            ["gspo[wandb] @ https://example.org/gspo-0.1.0-py3-none-any.whl"],
        ),
    ],
)
def test_an_extra_is_installed_from_where_the_package_came(
    source: dict[str, object] | None,
    expected: list[str],
    environment: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    class Installed:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return None if source is None else json.dumps(source).replace("HERE", tmp_path.as_uri())

    monkeypatch.setattr(metadata, "distribution", lambda _: Installed())
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    assert shlex.split(shell.install_command("wandb")) == ["pip", "install", *expected]


def test_a_package_that_was_not_installed_asks_for_the_extra_s_own(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere(_: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "distribution", nowhere)
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    assert shell.install_command("teacher") == "pip install openai tenacity"
