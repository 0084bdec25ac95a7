"""Runs that start from verl's whole default configuration, by its own command too."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import yaml

from gspo.config import load_config
from gspo.models.scratch import make_model_folder
from gspo.trainer import train
from gspo.trainer.setup import opened

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What verl's configuration cannot know; the configuration itself is `whole.yaml` in the working folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from verl_scripts import whole_configuration

    monkeypatch.chdir(tmp_path)
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole_configuration()))
    model = make_model_folder(tmp_path / "model", hidden_size=16, num_layers=1, max_positions=1100)
    for name, count in (("train", 1030), ("test", 2)):  # one batch of verl's default size, and a few rows
        rows = (
            {
                "data_source": "openai/gsm8k",
                "prompt": [{"role": "user", "content": f"{name} {number} + 1"}],
                "reward_model": {"style": "rule", "ground_truth": str(number + 1)},
            }
            for number in range(count)
        )
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [
        f"actor_rollout_ref.model.path={model}",
        "data.train_files=train.jsonl",
        "data.val_files=test.jsonl",
    ]


def test_three_overrides_start_it(overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(".", "whole", overrides)
    with opened(config) as run:
        assert run.folder.resolve() == Path("checkpoints/verl_examples/gsm8k").resolve()
        settings = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert (settings["data"]["train_batch_size"], settings["trainer"]["total_epochs"]) == (1024, 30)
    assert (settings["algorithm"]["adv_estimator"], settings["critic"]["enable"]) == ("gae", True)
    assert settings["actor_rollout_ref"]["rollout"]["name"] == "local"
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("keys of sharding and memory have no effect here") == 1
    assert "trainer.n_gpus_per_node=8: this release trains in one process" in said


def test_verls_command_trains(
    overrides: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [
        "actor_rollout_ref.rollout.name=vllm",
        "data.train_batch_size=4",
        "data.max_response_length=4",
        "trainer.total_training_steps=1",
        "trainer.val_before_train=False",
        "trainer.n_gpus_per_node=8",
        "trainer.save_hf=False",
        "reward.num_workers=1",
        "reward_model.reward_manager=dapo",
        "+reward_model.reward_kwargs.overlong_buffer_cfg.enable=True",
        "+reward_model.reward_kwargs.overlong_buffer_cfg.len=2",
        "+reward_model.reward_kwargs.max_resp_len=4",
    ]
    # What `python -m gspo.trainer.main_ppo` runs, without another start of torch.
    monkeypatch.setattr(sys, "argv", ["main_ppo", "--config-path", ".", "--config-name", "whole", *overrides, *small])
    monkeypatch.delitem(sys.modules, "gspo.trainer.main_ppo", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("gspo.trainer.main_ppo", run_name="__main__")
    assert ended.value.code == 0
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("actor_rollout_ref.rollout.name=vllm: the local engine samples") == 1
    assert said.count("more prompts than data.train_batch_size=4, so that 4 are taken") == 1
    lines = Path("checkpoints/verl_examples/gsm8k/metrics.jsonl").read_text().splitlines()
    metrics = json.loads(lines[0])
    assert metrics["reward/overlong_buffer/mean"] < 0  # 4 tokens and no end: the whole buffer is used
    assert "critic/vf_loss" in metrics


def test_what_is_refused_ends_it_before_anything_is_made(overrides: list[str]) -> None:
    asked = ["actor_rollout_ref.model.lora_rank=8", "algorithm.adv_estimator=remax"]
    config = load_config(".", "whole", [*overrides, *asked])
    with pytest.raises(
        ValueError, match=r"^2 settings cannot be honoured:\n  .*lora_rank=8: .*\n  .*=remax: "
    ) as caught:
        train(config)
    assert not Path("checkpoints").exists()
    assert len(str(caught.value).splitlines()) == 3
