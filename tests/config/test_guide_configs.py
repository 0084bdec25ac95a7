"""The configuration blocks and commands that users of verl's GSPO guide have work as they are printed."""

from __future__ import annotations

import shlex
from pathlib import Path

from guide_blocks import (
    DOTTED,
    DOTTED_WITH_GAD,
    ENABLE_GSPO,
    FULL_EXAMPLE,
    GAD_COMMAND,
    GSPO_COMMAND,
    GSPO_WITH_GAD,
    PPO_COMMAND,
)
from messages import names

from gspo.config import Config, load_config, notices, require_supported


def load_text(folder: Path, text: str) -> Config:
    (folder / "block.yaml").write_text(text, encoding="utf-8")
    return load_config(str(folder), "block")


def load_command(command: str) -> Config:
    words = shlex.split(command.replace("\\\n", " "))
    assert words[3] == "--config-path"
    assert words[5] == "--config-name"
    return load_config(words[4], words[6], words[7:])


def test_the_block_that_enables_gspo(tmp_path: Path) -> None:
    config = load_text(tmp_path, ENABLE_GSPO)
    actor = config.actor_rollout_ref.actor
    assert (config.algorithm.adv_estimator, config.algorithm.norm_adv_by_std_in_grpo) == ("grpo", True)
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("gspo", "seq-mean-token-mean")
    assert (actor.clip_ratio, actor.clip_ratio_low, actor.clip_ratio_high) == (0.2, 0.2, 0.2)
    require_supported(config)
    assert any("low=0.2, high=0.2 with policy_loss=gspo practically never clips" in text for text in notices(config))


def test_the_full_example(tmp_path: Path) -> None:
    config = load_text(tmp_path, FULL_EXAMPLE)
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    assert (rollout.n, rollout.temperature, rollout.top_p) == (8, 0.8, 0.9)
    assert (actor.ppo_mini_batch_size, actor.ppo_micro_batch_size_per_gpu, actor.ppo_epochs) == (256, 8, 1)
    assert actor.optim.lr == 1e-6
    assert config.critic.optim.lr == 1e-6
    assert (config.algorithm.lam, config.algorithm.use_kl_in_reward) == (0.95, False)
    assert config.critic.enable is False
    require_supported(config)


def test_the_full_example_with_a_smaller_batch_trains_on_the_whole_of_it(tmp_path: Path) -> None:
    (tmp_path / "block.yaml").write_text(FULL_EXAMPLE, encoding="utf-8")
    config = load_config(str(tmp_path), "block", ["data.train_batch_size=32"])
    require_supported(config)
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == 32
    (line,) = [line for line in notices(config) if "ppo_mini_batch_size=256" in line]
    assert names(line, "data.train_batch_size=32", "32 are taken")


def test_gspo_with_gad(tmp_path: Path) -> None:
    config = load_text(tmp_path, GSPO_WITH_GAD)
    assert config.data.train_files == ["/path/to/data_with_teacher_response.parquet"]
    assert (config.data.max_prompt_length, config.data.max_response_length) == (2048, 1536)
    assert config.critic.model.path == "/path/to/reward_model"
    assert config.critic.cliprange_value == 0.2
    assert (config.trainer.critic_warmup, config.trainer.total_epochs, config.trainer.save_freq) == (10, 2, 50)
    assert config.wants_discriminator
    require_supported(config)
    assert any(text.startswith("critic.model.path, trainer.critic_warmup with") for text in notices(config))


def test_dotted_keys_in_a_file(tmp_path: Path) -> None:
    config = load_text(tmp_path, DOTTED)
    assert config.algorithm.adv_estimator == "grpo"
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"
    assert config.actor_rollout_ref.actor.loss_agg_mode == "seq-mean-token-mean"
    assert config.actor_rollout_ref.rollout.n == 8
    require_supported(config)
    assert load_text(tmp_path, DOTTED + DOTTED_WITH_GAD).wants_discriminator


def test_the_ppo_command() -> None:
    config = load_command(PPO_COMMAND)
    assert (config.algorithm.adv_estimator, config.critic.enable) == ("gae", True)
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"
    assert config.uses_value_critic
    assert not config.wants_discriminator
    require_supported(config)


def test_the_gspo_command() -> None:
    config = load_command(GSPO_COMMAND)
    actor = config.actor_rollout_ref.actor
    assert (config.algorithm.adv_estimator, config.critic.enable) == ("grpo", False)
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode) == ("gspo", "seq-mean-token-mean")
    assert (actor.clip_ratio_low, actor.clip_ratio_high) == (3e-4, 4e-4)
    require_supported(config)
    assert notices(config)[0] == "configs has no ppo_config.yaml: the packaged preset ppo_config is used"


def test_a_file_of_ones_own_comes_before_the_preset(tmp_path: Path) -> None:
    (tmp_path / "ppo_config.yaml").write_text("actor_rollout_ref: {rollout: {n: 5}}", encoding="utf-8")
    command = GSPO_COMMAND.replace("configs", str(tmp_path))
    config = load_command(command)
    assert config.actor_rollout_ref.rollout.n == 5
    assert config.notes == ()


def test_the_gad_command() -> None:
    config = load_command(GAD_COMMAND)
    assert config.trainer.critic_warmup == 10
    assert config.data.train_files == ["/path/to/data_with_teacher_response.parquet"]
    assert (config.actor_rollout_ref.rollout.n, config.actor_rollout_ref.rollout.temperature) == (8, 0.8)
    assert (config.actor_rollout_ref.actor.optim.lr, config.critic.optim.lr) == (1e-6, 1e-6)
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"
    assert config.wants_discriminator
    require_supported(config)
