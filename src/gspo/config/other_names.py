"""What other trainers call things: their names of settings, each with the key that is meant here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["OTHER_NAMES", "key_elsewhere"]

_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

# TRL's GRPOConfig, transformers' TrainingArguments, and words that are tried first.
OTHER_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "learning_rate": f"{_ACTOR}.optim.lr",
        "lr": f"{_ACTOR}.optim.lr",
        "weight_decay": f"{_ACTOR}.optim.weight_decay",
        "max_grad_norm": f"{_ACTOR}.optim.clip_grad",
        "warmup_steps": f"{_ACTOR}.optim.lr_warmup_steps",
        "warmup_ratio": f"{_ACTOR}.optim.lr_warmup_steps_ratio",
        "lr_scheduler_type": f"{_ACTOR}.optim.lr_scheduler_type",
        "loss": f"{_ACTOR}.policy_loss",
        "loss_type": f"{_ACTOR}.policy_loss",
        "beta": f"{_ACTOR}.kl_loss_coef",
        "epsilon": f"{_ACTOR}.clip_ratio_low",
        "epsilon_high": f"{_ACTOR}.clip_ratio_high",
        "num_iterations": f"{_ACTOR}.ppo_epochs",
        "model": "actor_rollout_ref.model.path",
        "model_name": "actor_rollout_ref.model.path",
        "model_path": "actor_rollout_ref.model.path",
        "model_name_or_path": "actor_rollout_ref.model.path",
        "tokenizer": "actor_rollout_ref.model.tokenizer_path",
        "dtype": "actor_rollout_ref.model.dtype",
        "bf16": "actor_rollout_ref.model.mixed_precision",
        "gradient_checkpointing": "actor_rollout_ref.model.enable_gradient_checkpointing",
        "n": f"{_ROLLOUT}.n",
        "num_generations": f"{_ROLLOUT}.n",
        "temperature": f"{_ROLLOUT}.temperature",
        "data": "data.train_files",
        "dataset": "data.train_files",
        "dataset_name": "data.train_files",
        "train_file": "data.train_files",
        "batch_size": "data.train_batch_size",
        "per_device_train_batch_size": "data.train_batch_size",
        "max_completion_length": "data.max_response_length",
        "max_new_tokens": "data.max_response_length",
        "max_tokens": "data.max_response_length",
        "epochs": "trainer.total_epochs",
        "num_epochs": "trainer.total_epochs",
        "num_train_epochs": "trainer.total_epochs",
        "steps": "trainer.total_training_steps",
        "max_steps": "trainer.total_training_steps",
        "save_steps": "trainer.save_freq",
        "eval_steps": "trainer.test_freq",
        "report_to": "trainer.logger",
        "run_name": "trainer.experiment_name",
        "seed": "trainer.seed",
        "out": "trainer.default_local_dir",
        "output": "trainer.default_local_dir",
        "output_dir": "trainer.default_local_dir",
        "resume_from_checkpoint": "trainer.resume_from_path",
        "reward_funcs": "custom_reward_function.path",
        "reward": "custom_reward_function.path",
    }
)


def key_elsewhere(name: str) -> str | None:
    """The key that another trainer's name of a setting means, written with `_` or `-`; None where none is known."""
    return OTHER_NAMES.get(name.rpartition(".")[2].replace("-", "_").lower())
