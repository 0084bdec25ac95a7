"""A run says what is wrong with it while it goes on, once, and again in its last line; also when it is resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from messages import names

from gspo.cli import main


def run(capsys: pytest.CaptureFixture[str], overrides: list[str], command: str = "train") -> list[str]:
    assert main([command, *overrides]) == 0
    return capsys.readouterr().out.splitlines()


def test_equal_rewards_are_told_once_and_a_resumed_run_repeats_them_in_its_last_line_only(
    run_overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "zero.py").write_text("def compute_score(solution_str):\n    return 0.0\n")
    own = [f"custom_reward_function.path={tmp_path / 'zero.py'}", "trainer.total_training_steps=3"]
    lines = run(capsys, run_overrides(*own))
    assert "steps: 3, 1.5 epochs (an epoch has 2)" in lines
    (warning,) = (line for line in lines if line.startswith("warning, step"))
    assert names(warning, "step 3", "steps 1 to 3", "reward 0", "custom_reward_function.path")
    (summary,) = (line for line in lines if line.startswith("warnings of this run"))
    assert names(summary, "equal rewards (step 3", "custom_reward_function.path")
    again = run(capsys, run_overrides(*own[:1], "trainer.total_training_steps=4"))
    assert [line for line in again if line.startswith("warning, step")] == []
    assert summary in again


def test_a_column_of_equal_texts_is_said_at_the_start(
    run_overrides: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f'{{"prompt": "{number}", "answer": "{"x" * 50}"}}\n' for number in range(4)]
    (tmp_path / "same.jsonl").write_text("".join(rows))
    keys = ("actor_rollout_ref.model.path", "data.train_batch_size", "trainer.")
    base = [text for text in run_overrides() if text.startswith(keys) and "logger" not in text]
    lines = run(
        capsys,
        [
            *base,
            f"data.train_files={tmp_path / 'same.jsonl'}",
            "trainer.total_training_steps=1",
            "data.max_response_length=8",
        ],
        "sft",
    )
    assert names(next(line for line in lines if "same text" in line), "4 rows", "data.train_files", "answer", "'xxxx")
