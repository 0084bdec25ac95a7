"""`gspo quickstart --gad`, brought down to a few steps: what it runs, compares and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gspo.commands.gad_quickstart as module
from gspo.cli import main
from gspo.config import Config, load_config
from gspo.observe.jsonl import read_jsonl

pytestmark = pytest.mark.slow

SMALL = (
    "trainer.total_training_steps=3",
    "trainer.critic_warmup=1",
    "trainer.gad_warmup_steps=1",
    "actor_rollout_ref.rollout.n=2",
    "trainer.logger=[jsonl]",
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    original = module.gad_config

    def small(folder: Path, seed: int) -> Config:
        return original(folder, seed, SMALL)

    monkeypatch.setattr(module, "gad_config", small)
    monkeypatch.setattr(module, "_NUM_TRAIN", 64)
    monkeypatch.setattr(module, "_NUM_VAL", 4)
    monkeypatch.setattr(module, "SUPERVISED_STEPS", 2)


@pytest.mark.usefixtures("quick")
def test_it_compares_equal_budgets_and_rewards_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quickstart", "--gad", "--seed", "3", "--out", str(tmp_path)]) == 0
    folder = tmp_path / "gad-seed-3"
    found: dict[str, dict[str, Any]] = json.loads((folder / "results.json").read_text())
    assert list(found) == ["untrained", "after warmup", "after GAD", "further SFT"]
    assert all(0 <= figures["sampled"] <= 1 and 0 <= figures["greedy"] <= 1 for figures in found.values())
    start, *steps = read_jsonl(folder / "gad" / "metrics.jsonl")
    assert [line["training/gad_stage"] for line in steps] == [0, 1, 2, 2]
    assert "val-core/gsm8k-format/shell_game/acc/mean@2" in start
    assert all(line["critic/score/mean"] == pytest.approx(line["reward/discriminator/mean"]) for line in steps)
    assert not any(name.endswith("acc") and name.startswith("reward/") for line in steps for name in line)
    assert len(read_jsonl(folder / "further" / "metrics.jsonl")) == len(steps)
    both = [load_config(str(folder / name), "config") for name in ("gad", "further")]
    assert len({config.data.train_batch_size for config in both}) == 1
    assert len({config.actor_rollout_ref.model.path for config in both}) == 1
    said = capsys.readouterr().out
    assert "further SFT" in said
    assert f"{folder}/gad/report.html" in said
    assert (folder / "gad" / "report.html").stat().st_size > 0


def test_the_budget_is_that_of_the_preset(tmp_path: Path) -> None:
    config = module.gad_config(tmp_path, 1)
    trainer = config.trainer
    assert trainer.gad_warmup_steps is not None
    assert trainer.total_training_steps is not None
    assert module.further_steps(config) == trainer.gad_warmup_steps + trainer.total_training_steps
    assert not config.reward.functions
    assert config.custom_reward_function.path is None
