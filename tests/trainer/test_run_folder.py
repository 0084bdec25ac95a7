"""Where a run is written, and what becomes of an earlier one there."""

from __future__ import annotations

import os
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import pytest
from messages import names

from gspo.cli import main
from gspo.config import ConfigError
from gspo.config.schema import TrainerConfig
from gspo.trainer.folder import _PARTS, hold, run_folder


def section(folder: Path | str) -> TrainerConfig:
    return TrainerConfig(default_local_dir=str(folder))


def earlier_run(folder: Path) -> None:
    (folder / "checkpoints" / "global_step_1").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("earlier")
    (folder / "config-until-step-1.yaml").write_text("")


def test_an_earlier_run_is_moved_aside_whole(tmp_path: Path) -> None:
    said: list[str] = []
    for number in (1, 2):
        earlier_run(tmp_path / "run")
        (tmp_path / "run" / "notes.txt").write_text("mine")
        assert list(run_folder(section(tmp_path / "run"), None, said.append).iterdir()) == []
        aside = tmp_path / f"run.previous-{number}"
        assert (aside / "metrics.jsonl").read_text() == "earlier"
        assert (aside / "notes.txt").exists()
        assert names(said[-1], tmp_path / "run", aside)


@pytest.mark.parametrize("name", [".", "..", "../mine", "deep/.."])
def test_the_working_folder_stays_and_only_the_run_in_it_is_moved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine"
    earlier_run(mine)
    (mine / "data.jsonl").write_text("rows")
    (mine / "deep").mkdir()
    monkeypatch.chdir(mine / "deep" if name == ".." else mine)
    inode = mine.stat().st_ino
    for number in (1, 2):
        run_folder(section(name), None, lambda _: None)
        aside = tmp_path / f"mine.previous-{number}"
        assert sorted(file.name for file in aside.iterdir()) == [
            "checkpoints",
            "config-until-step-1.yaml",
            "metrics.jsonl",
        ]
        assert sorted(file.name for file in mine.iterdir() if file.name != ".lock") == ["data.jsonl", "deep"]
        assert (mine.stat().st_ino, os.getcwd()) == (inode, str(Path.cwd()))
        earlier_run(mine)


def test_folders_that_cannot_be_used_name_the_key() -> None:
    with pytest.raises(ConfigError) as caught:
        run_folder(section("/proc/no/such"), None, print)
    assert names(caught, "trainer.default_local_dir=/proc/no/such", "written to")
    with pytest.raises(ConfigError) as caught, hold(Path("/proc")):
        pass
    assert names(caught, "trainer.default_local_dir=/proc", "another folder")


def test_a_read_only_folder_names_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # a test may run as root, for whom nothing is read-only
    with pytest.raises(ConfigError) as caught:
        run_folder(section(tmp_path / "run"), None, print)
    assert names(caught, f"trainer.default_local_dir={tmp_path / 'run'}", "read-only")


def test_all_that_a_run_writes_is_known(tmp_path: Path, run_overrides: Callable[..., list[str]]) -> None:
    for steps in (1, 2):
        more = (f"trainer.total_training_steps={steps}", "trainer.logger=[jsonl,tensorboard]", "trainer.save_hf=true")
        assert main(["train", *run_overrides(*more)]) == 0
    written = {file.name for file in (tmp_path / "run").iterdir()} - {".lock"}
    assert {"checkpoints", "config-until-step-1.yaml", "huggingface", "tensorboard"} <= written
    assert [name for name in written if not any(fnmatch(name, pattern) for pattern in ("checkpoints", *_PARTS))] == []
