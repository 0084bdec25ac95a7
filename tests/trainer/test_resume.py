"""A run that is killed and started again is, bit for bit, the run that was never killed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import names

from gspo.checkpoint import CheckpointError, load_checkpoint
from gspo.config import load_config
from gspo.groups import GroupBatch
from gspo.models.scratch import make_model_folder
from gspo.trainer import train
from gspo.trainer.folder import hold
from gspo.trainer.policy_update import PolicyUpdate

_STEPS = 5  # of two batches an epoch
_SETTINGS = (
    f"trainer.total_training_steps={_STEPS}",
    "actor_rollout_ref.actor.shuffle=true",
    "actor_rollout_ref.actor.ppo_epochs=2",
    "actor_rollout_ref.actor.optim.lr_scheduler_type=cosine",
    "actor_rollout_ref.actor.optim.lr_warmup_steps=2",
    "algorithm.use_kl_in_reward=true",
    "algorithm.kl_ctrl.type=adaptive",
    "algorithm.kl_ctrl.horizon=20",
    "algorithm.kl_ctrl.target_kl=0.0001",
    "trainer.test_freq=2",
)
Overrides = Callable[..., list[str]]


class Killed(Exception):
    """Stands for a kill."""


@pytest.fixture
def run(run_overrides: Overrides, tiny_data: Path) -> Callable[..., None]:
    def start(*further: str) -> None:
        given = {text.partition("=")[0] for text in further}
        settings = [text for text in _SETTINGS if text.partition("=")[0] not in given]
        val = f"data.val_files={tiny_data / 'test.jsonl'}"
        train(load_config(None, None, run_overrides(*settings, val, *further)))

    return start


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole") / "run"


@pytest.fixture
def whole(whole_folder: Path, run: Callable[..., None]) -> Path:
    """The run that was never killed, with a checkpoint of every step."""
    if not whole_folder.exists():
        run(f"trainer.default_local_dir={whole_folder}", "trainer.save_freq=1")
    return whole_folder


@pytest.fixture
def kill_in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Ends the run in that step, after its rollouts; a step of 0 lets runs be again."""
    original = PolicyUpdate.update

    def kill(killed_in: int) -> None:
        def update(self: PolicyUpdate, batch: GroupBatch, step: int, with_entropy: bool = True) -> Any:
            if step == killed_in:
                raise Killed
            return original(self, batch, step, with_entropy)

        monkeypatch.setattr(PolicyUpdate, "update", update)

    return kill


def lines(folder: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    """The records of a run without what a clock says."""
    clocks = ("timing_", "perf/time", "perf/throughput", "perf/cores", "time")
    records = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return [{key: value for key, value in record.items() if not key.startswith(clocks)} for record in records]


def validated(line: dict[str, Any]) -> bool:
    return any(key.startswith("val-core/") for key in line)


def assert_same_run(ours: Path, theirs: Path) -> None:
    assert [line["step"] for line in lines(ours)] == list(range(_STEPS + 1))
    assert lines(ours) == lines(theirs)
    assert lines(ours, "samples.jsonl") == lines(theirs, "samples.jsonl")
    end, expected = (load_checkpoint(run / "checkpoints" / f"global_step_{_STEPS}") for run in (ours, theirs))
    assert end.state == expected.state
    assert sorted(end.tensors) == sorted(expected.tensors)
    for entry in expected.tensors:
        tensors = expected.tensors[entry]
        assert tensors.keys() == end.tensors[entry].keys()
        assert all(torch.equal(end.tensors[entry][name], tensor) for name, tensor in tensors.items()), entry


@pytest.mark.parametrize(("killed_in", "save_freq"), [(2, 1), (3, 1), (4, 1), (4, 2), (5, 3)])
def test_killed_and_resumed_is_never_killed(
    killed_in: int,
    save_freq: int,
    run: Callable[..., None],
    kill_in_step: Callable[[int], None],
    whole: Path,
    tmp_path: Path,
) -> None:
    kill_in_step(killed_in)
    with pytest.raises(Killed):
        run(f"trainer.save_freq={save_freq}")
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(killed_in))
    kill_in_step(0)
    run(f"trainer.save_freq={save_freq}")
    assert_same_run(tmp_path / "run", whole)
    rewards = [line["actor/reward_kl_penalty_coeff"] for line in lines(whole)[1:]]
    assert len(set(rewards)) == _STEPS  # the controller moved in every step


def test_killed_twice(
    run: Callable[..., None], kill_in_step: Callable[[int], None], whole: Path, tmp_path: Path
) -> None:
    for step in (2, 4):
        kill_in_step(step)
        with pytest.raises(Killed):
            run("trainer.save_freq=1")
    kill_in_step(0)
    run("trainer.save_freq=1")
    assert_same_run(tmp_path / "run", whole)


def test_killed_before_the_first_checkpoint_starts_again_and_keeps_what_there_is(
    run: Callable[..., None], kill_in_step: Callable[[int], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kill_in_step(2)
    with pytest.raises(Killed):
        run()
    kept = lines(tmp_path / "run")
    kill_in_step(0)
    run()
    assert f"an earlier run was in {tmp_path}/run; it is kept in {tmp_path}/run.previous-1" in capsys.readouterr().out
    assert lines(tmp_path / "run.previous-1") == kept
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(_STEPS + 1))


def test_a_finished_run_says_that_nothing_is_left(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run()
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    capsys.readouterr()
    run()
    said = capsys.readouterr().out
    assert (
        f"nothing to train: step {_STEPS} of {_STEPS} is done. Raise trainer.total_training_steps or "
        "trainer.total_epochs, or set trainer.resume_mode=disable to start again"
    ) in said
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_finished_run_goes_on_when_it_is_given_more_steps(run: Callable[..., None], tmp_path: Path) -> None:
    constant = "actor_rollout_ref.actor.optim.lr_scheduler_type=constant"
    last = "trainer.test_freq=1"  # the last step is validated in any case
    run(f"trainer.default_local_dir={tmp_path}/at_once", constant, last)
    run("trainer.total_training_steps=2", constant, last)
    run(constant, last)
    assert_same_run(tmp_path / "run", tmp_path / "at_once")


def test_disable_starts_again_and_moves_the_earlier_run_aside(run: Callable[..., None], tmp_path: Path) -> None:
    run()
    run("trainer.resume_mode=disable", "trainer.total_training_steps=1")
    run("trainer.resume_mode=disable", "trainer.total_training_steps=2")
    ends = {name: lines(tmp_path / name)[-1]["step"] for name in ("run", "run.previous-1", "run.previous-2")}
    assert ends == {"run": 2, "run.previous-1": _STEPS, "run.previous-2": 1}


def test_resume_path_goes_back_within_a_run(run: Callable[..., None], whole: Path, tmp_path: Path) -> None:
    run("trainer.save_freq=2")
    checkpoint = tmp_path / "run" / "checkpoints" / "global_step_2"
    run("trainer.save_freq=2", "trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")
    assert_same_run(tmp_path / "run", whole)
    assert not (tmp_path / "run.previous-1").exists()


def test_resume_path_from_another_run_moves_aside_what_stands_in_the_folder(
    run: Callable[..., None], whole: Path, tmp_path: Path
) -> None:
    run("trainer.seed=7")
    earlier = lines(tmp_path / "run")
    checkpoint = whole / "checkpoints" / "global_step_2"
    run("trainer.resume_mode=resume_path", f"trainer.resume_from_path={checkpoint}")
    assert lines(tmp_path / "run.previous-1") == earlier
    assert lines(tmp_path / "run") == lines(whole)[3:]


def test_a_damaged_checkpoint_is_passed_over_and_said(
    run: Callable[..., None],
    kill_in_step: Callable[[int], None],
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kill_in_step(4)
    with pytest.raises(Killed):
        run("trainer.save_freq=1")
    file = tmp_path / "run" / "checkpoints" / "global_step_3" / "actor.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    kill_in_step(0)
    run("trainer.save_freq=1")
    said = capsys.readouterr().out
    assert "passed over global_step_3: " in said
    assert f"resumed from {tmp_path}/run/checkpoints/global_step_2 after step 2 of 5" in said
    assert_same_run(tmp_path / "run", whole)


def test_another_model_is_refused(run: Callable[..., None], tmp_path: Path) -> None:
    run("trainer.total_training_steps=1")
    other = make_model_folder(tmp_path / "other", hidden_size=48, num_layers=2, max_positions=128)
    with pytest.raises(CheckpointError) as caught:
        run(f"actor_rollout_ref.model.path={other}")
    checkpoint = tmp_path / "run" / "checkpoints" / "global_step_1"
    assert str(caught.value).startswith(
        f"the weights in {checkpoint} are of another model than actor_rollout_ref.model.path: "
        "resume with the model the run began with"
    )
    assert lines(tmp_path / "run")[-1]["step"] == 1


def test_another_batch_size_is_refused(run: Callable[..., None]) -> None:
    run("trainer.total_training_steps=1")
    with pytest.raises(ValueError, match=r"the checkpoint was written with batch_size=4 and the run has batch_size=5"):
        run("data.train_batch_size=5")


def test_a_resume_that_is_refused_leaves_every_figure(run: Callable[..., None], tmp_path: Path) -> None:
    run("trainer.total_training_steps=2", "trainer.save_freq=1", "trainer.logger=[tensorboard]")
    folder = tmp_path / "run"
    files = [folder / "metrics.jsonl", folder / "samples.jsonl", *(folder / "tensorboard").iterdir()]
    before = [file.read_bytes() for file in files]
    earlier = f"trainer.resume_from_path={folder / 'checkpoints' / 'global_step_1'}"
    with pytest.raises(ValueError, match="batch_size=5"):
        run("data.train_batch_size=5", "trainer.resume_mode=resume_path", earlier, "trainer.logger=[tensorboard]")
    assert [file.read_bytes() for file in files] == before
    assert len(list((folder / "tensorboard").iterdir())) == 1


def test_a_validation_alone_adds_to_the_figures_and_removes_none(run: Callable[..., None], tmp_path: Path) -> None:
    run("trainer.total_training_steps=2", "trainer.save_freq=1", "trainer.logger=[]", "trainer.test_freq=2")
    folder = tmp_path / "run"
    before, settings = lines(folder), (folder / "config.yaml").read_text()
    samples = lines(folder, "samples.jsonl")
    assert [validated(line) for line in before] == [True, False, True]
    earlier = f"trainer.resume_from_path={folder / 'checkpoints' / 'global_step_1'}"
    run("trainer.val_only=true", "trainer.resume_mode=resume_path", earlier, "trainer.logger=[tensorboard]")
    after = lines(folder)
    assert [after[0], after[2]] == [before[0], before[2]]
    assert validated(after[1])
    assert after[1] | before[1] == after[1]
    assert lines(folder, "samples.jsonl")[: len(samples)] == samples
    assert (folder / "tensorboard").is_dir()
    assert (folder / "config.yaml").read_text() == settings


def test_other_data_of_the_same_length_is_refused(run: Callable[..., None], tiny_data: Path, tmp_path: Path) -> None:
    run("trainer.total_training_steps=1")
    other = tmp_path / "train.jsonl"
    text = (tiny_data / "train.jsonl").read_text(encoding="utf-8")
    other.write_text(text.replace("train 3: spell", "train 3: write"), encoding="utf-8")
    with pytest.raises(ValueError, match=r"fingerprint=\w+ and the run has fingerprint=\w+: resume with the same data"):
        run(f"data.train_files={other}")


def test_other_settings_are_said_and_the_earlier_ones_kept(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("trainer.total_training_steps=1", "trainer.logger=[console]")
    run("trainer.total_training_steps=2", "trainer.logger=[console]", "actor_rollout_ref.actor.policy_loss=vanilla")
    said = capsys.readouterr().out
    assert "resumed with other settings (the earlier ones are in config-until-step-1.yaml)" in said
    assert "actor_rollout_ref.actor.policy_loss.loss_mode: gspo -> vanilla" in said
    assert "loss_mode: gspo" in (tmp_path / "run" / "config-until-step-1.yaml").read_text(encoding="utf-8")
    assert "loss_mode: vanilla" in (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")


def test_a_finished_run_with_other_settings_is_not_passed_off_as_theirs(
    run: Callable[..., None], tmp_path: Path
) -> None:
    run("trainer.total_training_steps=1")
    before = (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="other settings") as caught:
        run("trainer.total_training_steps=1", "actor_rollout_ref.actor.policy_loss=vanilla")
    assert names(
        caught,
        tmp_path / "run",
        "actor_rollout_ref.actor.policy_loss.loss_mode: gspo -> vanilla",
        "trainer.default_local_dir",
        "trainer.resume_mode=disable",
        "trainer.total_training_steps",
    )
    # How a run is watched and ended is no other training.
    run("trainer.total_training_steps=1", "trainer.save_freq=7", "trainer.logger=[console]")
    assert (tmp_path / "run" / "config.yaml").read_text(encoding="utf-8") == before


def test_two_processes_cannot_train_in_one_folder(run: Callable[..., None], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with (
        hold(tmp_path / "run"),
        pytest.raises(ValueError, match=rf"process {os.getpid()} trains in .*run: wait for it"),
    ):
        run("trainer.total_training_steps=1")
