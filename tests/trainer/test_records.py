"""The folder of a run: records of its settings, what is moved aside, what a kill leaves, damaged figures."""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import names
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gspo.checkpoint import load_checkpoint
from gspo.cli import main
from gspo.observe import tensorboard
from gspo.observe.jsonl import write_line
from gspo.trainer import trained

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]
Start = Callable[..., int]


@pytest.fixture
def run(run_overrides: Overrides) -> Start:
    def start(*further: str) -> int:
        return main(["train", *run_overrides("trainer.save_freq=1", "trainer.val_before_train=false", *further)])

    return start


def setting(file: Path, name: str = "weight_decay") -> str:
    """The actor's setting in a file of settings: its first line of this name."""
    return next(
        line.split(":")[1].split("#")[0].strip() for line in file.read_text().splitlines() if f" {name}:" in line
    )


def from_step(folder: Path, step: int) -> tuple[str, str]:
    checkpoint = folder / "checkpoints" / f"global_step_{step}"
    return "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}"


def decay(value: float) -> str:
    return f"actor_rollout_ref.actor.optim.weight_decay={value}"


def test_each_record_says_with_what_its_steps_were_trained(
    run: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert run(decay(0.1)) == 0
    assert run(decay(0.2), "trainer.total_training_steps=3") == 0
    # Again from step 2: the record of the steps up to 2 stays, whatever this attempt differs from.
    assert run(decay(0.3), "trainer.total_training_steps=3", *from_step(folder, 2)) == 0
    assert "weight_decay: 0.1 -> 0.3" in capsys.readouterr().out
    records = sorted(file.name for file in folder.glob("config*"))
    assert records == ["config-until-step-2.yaml", "config.yaml"]
    assert [setting(folder / name) for name in records] == ["0.1", "0.3"]
    # From step 1: what was trained with what beyond it is given up, and kept under another name.
    assert run(decay(0.4), "trainer.total_training_steps=2", *from_step(folder, 1)) == 0
    found = {file.name: setting(file) for file in folder.glob("config*")}
    assert found == {
        "config-until-step-1.yaml": "0.1",
        "config-until-step-2.given-up-1.yaml": "0.1",
        "config.yaml": "0.4",
    }


def test_settings_that_cannot_be_read_do_not_block_a_run(
    run: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("trainer.total_training_steps=1") == 0
    file = tmp_path / "run" / "config.yaml"
    torn = file.read_bytes()[: file.stat().st_size // 2] + b"\xff\x00: ["
    file.write_bytes(torn)
    assert run() == 0
    assert "config.yaml could not be read" in capsys.readouterr().out
    assert (tmp_path / "run" / "config-unreadable-1.yaml").read_bytes() == torn
    assert setting(file, "total_training_steps")


def test_a_kill_while_settings_are_written_leaves_the_earlier_ones(
    run: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("trainer.total_training_steps=1") == 0
    file = tmp_path / "run" / "config.yaml"
    before = file.read_bytes()

    class Killed(BaseException):
        pass

    original = Path.write_text

    def torn(self: Path, text: str, *arguments: Any, **named: Any) -> int:
        if "config.yaml" in self.name:
            original(self, text[:100], *arguments, **named)
            raise Killed
        return original(self, text, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", torn)
        with pytest.raises(Killed):
            run()
    assert file.read_bytes() == before
    assert run() == 0
    assert not list((tmp_path / "run").glob(".*.tmp"))


def test_drafts_of_a_killed_run_go_when_it_is_started_again(run: Start, tmp_path: Path) -> None:
    assert run() == 0
    folder = tmp_path / "run"
    drafts = ("checkpoints/.tmp-global_step_3", "huggingface.tmp", "initial_model.tmp")
    for name in drafts:
        (folder / name).mkdir()
        (folder / name / "half").touch()
    (folder / "metrics.jsonl.tmp").touch()
    (folder / "mine.tmp").touch()
    assert run() == 0
    assert [path.name for path in folder.rglob("*") if "tmp" in path.name] == ["mine.tmp"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "samples.jsonl"])
@pytest.mark.parametrize("damage", [b'{"step": \n', b"\xff\xfe\n", b"[]\n"])
def test_damaged_figures_are_named_before_a_step_is_trained(
    name: str, damage: bytes, run: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("trainer.total_training_steps=1") == 0
    file = tmp_path / "run" / name
    whole = file.read_bytes()
    file.write_bytes(damage + whole)
    assert run() == 1
    assert names(capsys.readouterr().err, file, "line 1", "remove or repair")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").glob("global*")] == ["global_step_1"]
    file.write_bytes(whole)
    assert run() == 0


def test_a_run_in_the_current_folder_moves_its_own_files_aside(
    run: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    monkeypatch.chdir(folder)
    here = "trainer.default_local_dir=."
    assert run(here) == 0
    earlier = (folder / "metrics.jsonl").read_bytes()
    assert run(here, "trainer.resume_mode=disable", "trainer.seed=2") == 0
    assert (tmp_path / "mine.previous-1" / "metrics.jsonl").read_bytes() == earlier
    assert load_checkpoint(tmp_path / "mine.previous-1" / "checkpoints" / "global_step_2").step == 2
    assert (folder / "notes.txt").read_text() == "mine"
    assert (folder / "metrics.jsonl").read_bytes() != earlier
    assert Path.cwd() == folder


def test_a_run_behind_a_link_moves_aside_where_it_is(run: Start, tmp_path: Path) -> None:
    big = tmp_path / "big"
    big.mkdir()
    (big / "run").mkdir()
    (tmp_path / "run").symlink_to(big / "run")
    assert run() == 0
    assert run("trainer.resume_mode=disable") == 0
    assert sorted(path.name for path in big.iterdir()) == ["run", "run.previous-1"]
    assert (tmp_path / "run").is_symlink()
    assert (big / "run" / "metrics.jsonl").is_file()


def test_another_run_in_the_folder_names_the_key_and_both_ways_out(
    run: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run() == 0
    ways = (tmp_path / "run", "trainer.default_local_dir", "trainer.resume_mode=disable")
    for settings, key in {
        ("data.train_batch_size=5",): "batch_size=5",
        ("algorithm.adv_estimator=gae", "critic.shared_backbone=true"): "critic.shared_backbone",
        ("algorithm.adv_estimator=gae",): "critic",
    }.items():
        assert run(*settings, "trainer.total_training_steps=3") == 1
        assert names(capsys.readouterr().err, key, *ways)


def test_a_run_whose_steps_were_all_left_out_fails_each_time(
    run: Start, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trained, "clip_and_step", lambda *_: math.nan)
        assert run() == 1
        said = capsys.readouterr().err
    assert names(said, "every optimizer step of the actor", "4", "actor_rollout_ref.actor.optim.lr")
    assert run() == 1
    assert names(capsys.readouterr().err, "every optimizer step of the actor", "trainer.resume_mode=disable")
    assert run("trainer.total_training_steps=3") == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_under_the_figures_names_the_file() -> None:
    file = open("/dev/full", "w")  # noqa: SIM115 - closing it fails too
    with pytest.raises(OSError, match=os.strerror(28)) as caught:
        write_line(file, {"step": 1})
    assert names(caught, "/dev/full")
    with suppress(OSError):
        file.close()


def test_a_full_disk_under_tensorboard_is_one_line_and_the_run_goes_on_later(
    run: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ("trainer.logger=[tensorboard]", "trainer.total_training_steps=3")

    class Full(FileIO):
        """A disk that takes the first two steps and half of the third."""

        def write(self, data: Any) -> int:
            if len(list((tmp_path / "run" / "checkpoints").glob("global_step_*"))) < 2:
                return super().write(data)
            super().write(data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tensorboard, "open", lambda path, *_, **__: Full(path, "a"), raising=False)
    assert run(*settings) == 1
    error = capsys.readouterr().err.strip()
    (file,) = (tmp_path / "run" / "tensorboard").iterdir()
    assert names(error, os.strerror(errno.ENOSPC), file)
    assert len(error.splitlines()) == 1
    monkeypatch.undo()
    assert run(*settings) == 0
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("critic/score/mean")] == [1, 2, 3]


def test_tensorboard_shows_one_curve_after_a_resume(run: Start, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ("trainer.logger=[tensorboard]", decay(0.1))
    assert run(*settings, "trainer.total_training_steps=3") == 0
    assert run(*settings, "trainer.total_training_steps=4", *from_step(folder, 1)) == 0
    events = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    curve = events.Scalars("critic/score/mean")
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [event.step for event in curve] == [1, 2, 3, 4] == [line["step"] for line in logged]
    values = torch.tensor([line["critic/score/mean"] for line in logged], dtype=torch.float32)
    assert [event.value for event in curve] == values.tolist()
