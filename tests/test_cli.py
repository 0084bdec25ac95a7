"""The command line: the blocks and commands of verl's GSPO guide as printed, at a small size; help, exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from guide_blocks import DOTTED, ENABLE_GSPO, FULL_EXAMPLE, GAD_COMMAND, GSPO_COMMAND, GSPO_WITH_GAD
from messages import names

import gspo
import gspo.trainer.assembly as assembly
from gspo.cli import main
from gspo.config import load_config

COMMANDS = ["train", "sft", "config", "eval", "report", "samples", "quickstart", "compare", "export", "data"]


@pytest.fixture(scope="module")
def gym(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.parquet and test.parquet of a reasoning-gym task."""
    folder = tmp_path_factory.mktemp("gym")
    sizes = ["--train-size", "8", "--val-size", "4", "--set", "min_word_len=3", "--set", "max_word_len=4"]
    assert main(["data", "reasoning-gym", "spell_backward", "--out", str(folder), *sizes]) == 0
    return folder


@pytest.fixture
def small(gym: Path, tiny_model_folder: Path, tmp_path: Path) -> list[str]:
    """Overrides that bring a command of the guide down to two steps of two mini-batches on the task."""
    return [
        f"actor_rollout_ref.model.path={tiny_model_folder}",
        f"data.train_files={gym / 'train.parquet'}",
        f"data.val_files={gym / 'test.parquet'}",
        "data.train_batch_size=4",
        "actor_rollout_ref.ppo_mini_batch_size=2",
        "data.max_prompt_length=80",
        "data.max_response_length=6",
        "trainer.total_training_steps=2",
        f"trainer.default_local_dir={tmp_path / 'run'}",
        "trainer.num_threads=1",
    ]


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_trained(folder: Path, n: int) -> None:
    start, *steps = metrics(folder)
    held_out = "val-core/reasoning_gym/spell_backward/acc/mean@1"
    assert start["step"] == 0
    assert held_out in start
    assert held_out in steps[-1]
    assert [step["training/global_step"] for step in steps] == [1.0, 2.0]
    for step in steps:
        assert step["actor/skipped_steps"] == 0.0
        assert 0 <= step["actor/seq_clipfrac"] <= 1
        assert step["reward/errors"] == 0.0
    for name in ("config.yaml", "samples.jsonl", "report.html", "huggingface/model.safetensors"):
        assert (folder / name).stat().st_size > 0, name
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    of_step = [sample for sample in samples if sample["step"] == 1 and sample["split"] == "train"]
    assert len(of_step) == n
    assert abs(sum(sample["advantage"] for sample in of_step)) < 1e-5  # a group's are around its mean
    again = load_config(str(folder), "config")
    assert again.actor_rollout_ref.rollout.n == n
    assert again.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"


@pytest.mark.parametrize(("block", "n"), [(ENABLE_GSPO, 3), (FULL_EXAMPLE, 8), (DOTTED, 8)])
def test_the_guides_blocks_train(
    block: str, n: int, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    rollouts = ["actor_rollout_ref.rollout.n=3"] if n == 3 else []
    assert main(["train", "--config-path", str(tmp_path), "--config-name", "mine", *small, *rollouts]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert ("practically never clips" in said.out) == ("clip_ratio" in block)
    assert f"report: {tmp_path}/run/report.html" in said.out
    assert_trained(tmp_path / "run", n)


@pytest.mark.slow
def test_the_guides_command_trains_in_a_process_of_its_own(small: list[str], tmp_path: Path) -> None:
    words = shlex.split(GSPO_COMMAND.replace("\\\n", " "))
    assert words[:3] == ["python", "-m", "gspo.trainer.main_ppo"]
    source = str(Path(gspo.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *words[1:], *small],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "configs has no ppo_config.yaml: the packaged preset ppo_config is used" in done.stdout
    assert "gspo with grpo advantages, clip 0.0003, 0.0004, seq-mean-token-mean, lr 1e-06" in done.stdout
    assert_trained(tmp_path / "run", 8)


@pytest.mark.slow
def test_the_guides_command_in_this_process_is_the_same_run(small: list[str], tmp_path: Path) -> None:
    words = shlex.split(GSPO_COMMAND.replace("\\\n", " "))
    assert main(["train", *words[3:], *small]) == 0
    first = metrics(tmp_path / "run")
    # Overrides before the options, and Hydra's + in front of them, are the same.
    overrides = [f"+{word}" for word in [*words[7:], *small]]
    assert main(["train", *overrides[:5], *words[3:7], *overrides[5:], "trainer.resume_mode=disable"]) == 0
    second = metrics(tmp_path / "run")
    for name in ("actor/pg_loss", "actor/grad_norm", "critic/score/mean", "response_length/mean"):
        assert [line[name] for line in first[1:]] == [line[name] for line in second[1:]]


@pytest.fixture
def with_teacher(small: list[str], tmp_path: Path) -> list[str]:
    """`small` with the answers as the teacher's text."""
    overrides = []
    for override in small:
        key, _, value = override.partition("=")
        if key in ("data.train_files", "data.val_files"):
            table = pq.read_table(value)
            answers = [row["ground_truth"] for row in table["reward_model"].to_pylist()]
            value = str(tmp_path / Path(value).name)
            pq.write_table(table.append_column("teacher_response", [answers]), value)
        overrides.append(f"{key}={value}")
    return overrides


@pytest.mark.parametrize("printed", ["block", "command"])
def test_the_guides_gad_trains(
    printed: str,
    with_teacher: list[str],
    tiny_model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if printed == "block":
        (tmp_path / "gad.yaml").write_text(GSPO_WITH_GAD, encoding="utf-8")
        words = ["--config-path", str(tmp_path), "--config-name", "gad", f"critic.model.path={tiny_model_folder}"]
    else:
        words = shlex.split(GAD_COMMAND.replace("\\\n", " "))[3:]
    steps = ["trainer.total_training_steps=11", "actor_rollout_ref.rollout.n=2"]
    assert main(["train", *words, *with_teacher, *steps]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert "stages: 10 steps discriminator alone, then 1 step adversarial" in said.out
    start, *logged = metrics(tmp_path / "run")
    assert [step["training/gad_stage"] for step in logged] == [1.0] * 10 + [2.0]
    assert [name for name in ("actor/pg_clipfrac", "actor/ppo_kl", "actor/entropy") if name not in logged[-1]] == []
    for name in ("d_loss", "d_acc", "student_value_mean", "teacher_value_mean", "margin", "grad_norm"):
        assert f"critic/{name}" in logged[0]
    for line in (start, logged[-1]):
        assert "val-core/reasoning_gym/spell_backward/acc/mean@1" in line  # measured, never rewarded
        assert "val-aux/gad/d_acc" in line
    assert "reward/gym/mean" not in logged[-1]


def test_gad_without_teacher_text_says_what_to_do(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *small, "critic.enable=true"]) == 1
    said = capsys.readouterr().err
    assert "there is no column 'teacher_response' with a text to learn from" in said
    assert "critic.enable=false trains on rewards alone" in said


def test_own_questions_become_data_that_trains(
    small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "questions.jsonl"
    rows = [{"question": f"{a} + 1234567?", "truth": str(1234567 + a)} for a in range(4)]
    source.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    out = tmp_path / "mine.parquet"
    keys = ["--prompt-key", "question", "--answer-key", "truth", "--data-source", "openai/gsm8k"]
    assert main(["data", "jsonl", str(source), "--out", str(out), *keys]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"{out}: 4 rows"
    overrides = [*small, f"data.train_files={out}", "data.val_files=[]", "trainer.total_training_steps=1"]
    assert main(["train", *overrides, "actor_rollout_ref.rollout.n=2"]) == 0
    (step,) = metrics(tmp_path / "run")
    assert step["reward/abstained"] + step["reward/errors"] == 0.0
    assert step["critic/score/mean"] == 0.0


def test_config_prints_what_it_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "actor_rollout_ref.actor.policy_loss=gspo", "data.train_batch_size=32"]) == 0
    said = capsys.readouterr()
    assert "# PROMPTS per training step (times rollout.n responses)." in said.out
    assert "gspo: note: actor_rollout_ref.rollout.n=1 leaves grpo without a baseline" in said.err
    (tmp_path / "printed.yaml").write_text(said.out, encoding="utf-8")
    assert main(["config", "--config-path", str(tmp_path), "--config-name", "printed"]) == 0
    assert capsys.readouterr().out == said.out


def test_validation_only(small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *small, "trainer.val_only=true"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"step 0/2  testing \d+(\.\d)?s  held-out reasoning_gym/spell_backward 0\.000", last)
    assert not (tmp_path / "run" / "checkpoints").exists()
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)["val-core/reasoning_gym/spell_backward/acc/mean@1"] == 0.0
    assert main(["train", *small, "trainer.val_only=true", "data.val_files=[]"]) == 1
    assert names(capsys.readouterr().err, "gspo: error: ", "data.val_files is not set", "data.val_files=test.parquet")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: gspo {command} ")


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--help"])
    assert done.value.code == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert set(COMMANDS) <= set(listed)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(["--version"])
    assert done.value.code == 0
    assert capsys.readouterr().out == f"gspo {gspo.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["trane"], "there is no command trane: did you mean `"),
        (["train", "--confg-name", "x"], "there is no option --confg-name: did you mean --config-name?"),
        (["report", "a", "--bands"], "unrecognized arguments: --bands"),
        (["samples"], "the following arguments are required: RUN"),
        (["data", "reasoning-gym", "chain_sum", "--out", "x", "--set", "size"], "'size' is not KEY=VALUE"),
    ],
)
def test_a_command_that_cannot_be_read(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main(arguments)
    assert done.value.code == 2
    assert message in capsys.readouterr().err


def test_ctrl_c_is_no_error(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(assembly, "train_step", stop)
    assert main(["train", *small]) == 130
    assert names(capsys.readouterr().err, "gspo: stopped", "the same command", "checkpoint")


def test_report_of_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path / "nothing")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("gspo: error: ")
    assert str(tmp_path / "nothing") in error


def test_settings_of_a_task_that_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command: Callable[..., list[str]] = lambda *words: ["data", "reasoning-gym", *words, "--out", str(tmp_path)]  # noqa: E731
    assert main(command("spell_backwards")) == 1
    assert capsys.readouterr().err.startswith(
        "gspo: error: reasoning-gym has no task 'spell_backwards'; the nearest: spell_backward"
    )
    assert main(command("spell_backward", "--set", "min_len=3")) == 1
    assert "spell_backward has no setting 'min_len'; its settings: " in capsys.readouterr().err
