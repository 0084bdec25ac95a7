"""Fills what the user left open and another key decides, so that the printed configuration shows what is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from types import MappingProxyType

from gspo.config.schema import ActorConfig, Config

__all__ = ["CLIP_RANGES", "SEQUENCE_LOSSES", "UNCLIPPED", "resolve"]

SEQUENCE_LOSSES = ("gspo", "gspo_token")
# Losses whose papers weigh each response the same: the two above, GMPO and SAPO.
_SEQUENCE_MEAN = (*SEQUENCE_LOSSES, "geo_mean", "sapo")
UNCLIPPED = ("sapo",)

# (low, high) where the user sets none, the same as the losses' own. GSPO: arXiv 2507.18071, section 5.1. GMPO's is in
# log space: arXiv 2507.20673, section 4. CISPO has no lower bound: arXiv 2506.13585, section 3.1.
CLIP_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"gspo": (3e-4, 4e-4), "gspo_token": (3e-4, 4e-4), "geo_mean": (0.4, 0.4), "cispo": (1.0, 4.0)}
)
_DEFAULT_CLIP_RANGE = (0.2, 0.2)  # PPO, arXiv 1707.06347
_DEFAULT_MINI_BATCH = 256


def resolve(config: Config) -> Config:
    """The same configuration with clip ranges, aggregation, batch sizes, seeds and names filled. Twice is as once."""
    policy, trainer = config.actor_rollout_ref, config.trainer
    actor = _resolve_actor(policy.actor, config.data.train_batch_size)
    loss_mode = actor.policy_loss.loss_mode
    model_name = _model_name(policy.model.path) if policy.model.path else None
    experiment = trainer.experiment_name or "-".join(filter(None, (loss_mode, model_name)))
    seed = trainer.seed if config.data.seed is None else config.data.seed
    mini_batch = config.critic.ppo_mini_batch_size or actor.ppo_mini_batch_size
    needs_critic = config.algorithm.adv_estimator == "gae" or config.wants_discriminator
    return replace(
        config,
        data=replace(config.data, seed=seed),
        actor_rollout_ref=replace(policy, actor=actor),
        critic=replace(
            config.critic,
            ppo_mini_batch_size=mini_batch,
            enable=needs_critic if config.critic.enable is None else config.critic.enable,
        ),
        trainer=replace(
            trainer,
            experiment_name=experiment,
            default_local_dir=trainer.default_local_dir or f"runs/{trainer.project_name}/{experiment}",
        ),
    )


def _model_name(path: str) -> str:
    """The last part of a path or hub name that names a model; an export's folder is called after its run."""
    parts = [part for part in PurePath(path).parts if part != "huggingface"]
    return parts[-1] if parts else path


def _resolve_actor(actor: ActorConfig, train_batch_size: int) -> ActorConfig:
    aggregation = "seq-mean-token-mean" if actor.policy_loss.loss_mode in _SEQUENCE_MEAN else "token-mean"
    by_tokens = actor.ppo_micro_batch_size_per_gpu is None
    return replace(
        _resolve_clip(actor),
        loss_agg_mode=actor.loss_agg_mode or aggregation,
        ppo_mini_batch_size=actor.ppo_mini_batch_size or min(_DEFAULT_MINI_BATCH, train_batch_size),
        use_dynamic_bsz=by_tokens if actor.use_dynamic_bsz is None else actor.use_dynamic_bsz,
    )


def _resolve_clip(actor: ActorConfig) -> ActorConfig:
    if actor.policy_loss.loss_mode in UNCLIPPED:
        return actor
    both = actor.clip_ratio
    low, high = CLIP_RANGES.get(actor.policy_loss.loss_mode, _DEFAULT_CLIP_RANGE) if both is None else (both, both)
    low = low if actor.clip_ratio_low is None else actor.clip_ratio_low
    high = high if actor.clip_ratio_high is None else actor.clip_ratio_high
    return replace(actor, clip_ratio=low if both is None else both, clip_ratio_low=low, clip_ratio_high=high)
