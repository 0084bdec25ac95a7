"""Fills what the user left open and another key decides, so that the printed configuration shows what is used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePath

from gspo.config.schema import ActorConfig, Config, ConfigError, CriticConfig, DataConfig, TrainerConfig
from gspo.methods import PolicyLoss, loss_named

__all__ = ["resolve"]

_DEFAULT_MINI_BATCH = 256


def resolve(config: Config) -> Config:
    """The same configuration with clip ranges, aggregation, batch sizes, seeds and names filled. Twice is as once.

    Of a loss that is not known, clip range and aggregation stay as they are.
    """
    policy, trainer = config.actor_rollout_ref, config.trainer
    actor = _resolve_actor(policy.actor, config.data)
    loss_mode = actor.policy_loss.loss_mode
    model_name = _model_name(policy.model.path) if policy.model.path else None
    experiment = trainer.experiment_name or "-".join(filter(None, (loss_mode, model_name)))
    folder = trainer.default_local_dir or _run_folder(trainer, experiment)
    seed = trainer.seed if config.data.seed is None else config.data.seed
    mini_batch = _mini_batch(config.critic.ppo_mini_batch_size or actor.ppo_mini_batch_size, config.data)
    needs_critic = config.uses_value_critic or config.wants_discriminator
    return replace(
        config,
        data=replace(config.data, seed=seed),
        actor_rollout_ref=replace(policy, actor=actor),
        critic=replace(
            config.critic,
            ppo_mini_batch_size=mini_batch,
            loss_scale_factor=_scale(config.critic, config.data),
            enable=needs_critic if config.critic.enable is None else config.critic.enable,
        ),
        trainer=replace(
            trainer,
            experiment_name=experiment,
            default_local_dir=folder,
        ),
    )


def _run_folder(trainer: TrainerConfig, experiment: str) -> str:
    """The folder of a run that names none: runs/PROJECT_NAME/EXPERIMENT_NAME."""
    for name, text in (("project_name", trainer.project_name), ("experiment_name", experiment)):
        if ".." in PurePath(text).parts:
            raise ConfigError(
                f"{trainer.key(name)}={text} leads out of the folder of runs: take the .. out, or name the run's "
                f"folder by {trainer.key('default_local_dir')}",
                trainer.key(name),
            )
    return f"runs/{trainer.project_name}/{experiment}"


def _model_name(path: str) -> str:
    """The last part of a path or hub name that names a model; an export's folder is called after its run."""
    if not PurePath(path).name.strip("."):  # `.` and `..` have no name of their own
        path = str(Path(path).resolve())
    parts = [part for part in PurePath(path).parts if part != "huggingface"]
    return parts[-1] if parts else path


def _resolve_actor(actor: ActorConfig, data: DataConfig) -> ActorConfig:
    loss = loss_named(actor.policy_loss.loss_mode)
    by_tokens = actor.ppo_micro_batch_size_per_gpu is None
    actor = actor if loss is None else _with_own(actor, loss)
    return replace(
        actor,
        loss_scale_factor=_scale(actor, data),
        ppo_mini_batch_size=_mini_batch(actor.ppo_mini_batch_size, data),
        use_dynamic_bsz=by_tokens or bool(actor.use_dynamic_bsz),
    )


def _mini_batch(size: int | None, data: DataConfig) -> int:
    """Prompts of an optimizer step, of which there are no more than in the batch."""
    return min(size or _DEFAULT_MINI_BATCH, data.train_batch_size)


def _scale(section: ActorConfig | CriticConfig, data: DataConfig) -> float | None:
    """The divisor of Dr. GRPO's aggregation: one number for the whole run, as in verl and TRL."""
    if section.loss_scale_factor is None and section.loss_agg_mode == "seq-mean-token-sum-norm":
        return float(data.max_response_length)
    return section.loss_scale_factor


def _with_own(actor: ActorConfig, loss: PolicyLoss) -> ActorConfig:
    """With the loss's own clip range and aggregation, where the user has set none."""
    actor = replace(actor, loss_agg_mode=actor.loss_agg_mode or loss.aggregation)
    if loss.clip is None:
        return actor
    both = actor.clip_ratio
    low, high = loss.clip if both is None else (both, both)
    low = low if actor.clip_ratio_low is None else actor.clip_ratio_low
    high = high if actor.clip_ratio_high is None else actor.clip_ratio_high
    return replace(actor, clip_ratio=low if both is None else both, clip_ratio_low=low, clip_ratio_high=high)
