"""The folder of a run that names none: its own for each configuration, the same for the same one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from messages import names

from gspo.cli import main
from gspo.config import Config, load_config
from gspo.finished import load_run
from gspo.trainer.naming import in_own_folder
from gspo.trainer.records import write_config

BASE = ("actor_rollout_ref.model.path=org/m", "data.train_files=[a.jsonl]", "actor_rollout_ref.actor.policy_loss=gspo")
LR = "actor_rollout_ref.actor.optim.lr"


def configured(*overrides: str) -> Config:
    return load_config(overrides=[*BASE, *overrides])


def begin(config: Config, *objects: str) -> tuple[str, list[str]]:
    """Where a run goes that begins now, and what it says of it; it leaves its files there."""
    said: list[str] = []
    named = in_own_folder(config, objects, said.append)
    folder = Path(named.trainer.default_local_dir or "")
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder, named, None)
    (folder / "metrics.jsonl").touch()
    assert folder.name == named.trainer.experiment_name
    return str(folder), said


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_another_configuration_has_another_folder_and_the_same_one_its_own() -> None:
    first, second, third = configured(), configured(f"{LR}=1e-5"), configured("data.train_files=[b.jsonl]")
    assert begin(first) == ("runs/gspo/gspo-m", [])
    folder, said = begin(second)
    assert folder == "runs/gspo/gspo-m-2"
    assert names(
        said[0],
        "runs/gspo/gspo-m holds",
        f"{LR}: 1e-06 -> 1e-05",
        folder,
        "trainer.default_local_dir=runs/gspo/gspo-m ",
    )
    assert begin(third)[0] == "runs/gspo/gspo-m-3"
    assert [begin(config)[0] for config in (first, second, third)] == [
        "runs/gspo/gspo-m",
        "runs/gspo/gspo-m-2",
        "runs/gspo/gspo-m-3",
    ]


@pytest.mark.parametrize(
    "setting",
    ["trainer.total_training_steps=9", "trainer.save_freq=3", "data.val_max_samples=7", "trainer.logger=[jsonl]"],
)
def test_how_a_run_is_watched_and_ended_is_no_other_run(setting: str) -> None:
    begin(configured())
    assert begin(configured(setting)) == ("runs/gspo/gspo-m", [])


def test_the_model_counts_by_its_place() -> None:
    begin(configured())
    assert begin(configured("actor_rollout_ref.model.path=other/m"))[0] == "runs/gspo/gspo-m-2"


def test_what_is_given_as_an_object_does_not_count() -> None:
    begin(configured())
    path, rows = "actor_rollout_ref.model.path", "data.train_files"
    other = configured(f"{path}=else/m", f"{rows}=[b.jsonl]")
    assert begin(other, path, rows) == ("runs/gspo/gspo-m", [])


@pytest.mark.parametrize(
    "named",
    ["trainer.default_local_dir=runs/gspo/gspo-m", "trainer.experiment_name=gspo-m", "trainer.resume_mode=disable"],
)
def test_a_folder_or_a_name_of_the_user_s_means_what_it_says(named: str) -> None:
    begin(configured())
    assert begin(configured(f"{LR}=1e-5", named)) == ("runs/gspo/gspo-m", [])


def test_a_project_is_kept() -> None:
    begin(configured("trainer.project_name=p"))
    assert begin(configured("trainer.project_name=p", f"{LR}=1e-5"))[0] == "runs/p/gspo-m-2"


def test_a_configuration_that_cannot_be_read_is_another_run() -> None:
    begin(configured())
    Path("runs/gspo/gspo-m/config.yaml").write_text("nonsense: 1")
    folder, said = begin(configured())
    assert folder == "runs/gspo/gspo-m-2"
    assert names(said[0], "config.yaml cannot be read")


def test_a_whole_run_leaves_the_other_one_as_it_is(
    run_overrides: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*settings: str) -> str:
        overrides = run_overrides("trainer.total_training_steps=1", *settings)
        assert main(["train", *(text for text in overrides if not text.startswith("trainer.default_local_dir"))]) == 0
        return capsys.readouterr().out

    run()
    earlier = Path("runs/gspo/gspo-tiny/metrics.jsonl").read_text()
    assert names(run(f"{LR}=1e-4").splitlines()[-1], "runs/gspo/gspo-tiny-2")
    assert Path("runs/gspo/gspo-tiny/metrics.jsonl").read_text() == earlier
    assert load_run("runs/gspo/gspo-tiny-2").config.actor.optim.lr == 1e-4
