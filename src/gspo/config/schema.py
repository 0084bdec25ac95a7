"""The root of the configuration: verl's key tree, with the checks that span several sections."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

from gspo.config.fields import ConfigError, Section, option, section, to_dict
from gspo.config.schema_data import (
    CustomRewardConfig,
    DataConfig,
    OverlongBufferConfig,
    RewardConfig,
    RewardFunctionConfig,
)
from gspo.config.schema_policy import (
    ActorConfig,
    ActorOptimConfig,
    ActorRolloutRefConfig,
    ModelConfig,
    OptimConfig,
    PolicyLossConfig,
    RefConfig,
    RolloutConfig,
    ValKwargsConfig,
)
from gspo.config.schema_run import (
    AlgorithmConfig,
    CriticConfig,
    CriticModelConfig,
    CriticOptimConfig,
    DiscriminatorConfig,
    FilterGroupsConfig,
    KlCtrlConfig,
    RolloutCorrectionConfig,
    TrainerConfig,
)

__all__ = [
    "ADV_ESTIMATORS",
    "POLICY_LOSSES",
    "ActorConfig",
    "ActorOptimConfig",
    "ActorRolloutRefConfig",
    "AlgorithmConfig",
    "Config",
    "ConfigError",
    "CriticConfig",
    "CriticModelConfig",
    "CriticOptimConfig",
    "CustomRewardConfig",
    "DataConfig",
    "DiscriminatorConfig",
    "FilterGroupsConfig",
    "KlCtrlConfig",
    "ModelConfig",
    "OptimConfig",
    "OverlongBufferConfig",
    "PolicyLossConfig",
    "RefConfig",
    "RewardConfig",
    "RewardFunctionConfig",
    "RolloutConfig",
    "RolloutCorrectionConfig",
    "Section",
    "TrainerConfig",
    "ValKwargsConfig",
    "option",
    "to_dict",
]

POLICY_LOSSES = ("vanilla", "gspo", "gspo_token", "geo_mean", "cispo", "sapo")
ADV_ESTIMATORS = (
    "gae",
    "grpo",
    "grpo_vectorized",
    "grpo_passk",
    "gdpo",
    "rloo",
    "rloo_vectorized",
    "opo",
    "reinforce_plus_plus",
    "reinforce_plus_plus_baseline",
)


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """Everything that a run can be told.

    `load_config` makes one in which nothing that depends on another key is left open (clip ranges, loss_agg_mode,
    mini-batch size, names). No part of the tree are `user_set`, the dotted keys that a file or an override set
    (packaged presets do not count), and `notes`, what composing it had to say.
    """

    data: DataConfig = section(DataConfig, "Prompts.")
    actor_rollout_ref: ActorRolloutRefConfig = section(ActorRolloutRefConfig, "The policy.")
    critic: CriticConfig = section(CriticConfig, "The value critic (PPO) or the discriminator (GAD).")
    algorithm: AlgorithmConfig = section(AlgorithmConfig, "Advantages and divergence.")
    reward: RewardConfig = section(RewardConfig, "How responses are scored.")
    custom_reward_function: CustomRewardConfig = section(CustomRewardConfig, "A reward function of your own.")
    trainer: TrainerConfig = section(TrainerConfig, "The run.")
    user_set: frozenset[str] = field(default=frozenset(), compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        actor, algorithm = self.actor_rollout_ref.actor, self.algorithm
        if not algorithm.external_modules:
            _check_name(actor.policy_loss.loss_mode, POLICY_LOSSES, actor.policy_loss.key("loss_mode"))
            _check_name(algorithm.adv_estimator, ADV_ESTIMATORS, algorithm.key("adv_estimator"))
        if algorithm.adv_estimator == "gae" and self.critic.enable is False:
            raise ConfigError(
                "algorithm.adv_estimator=gae needs a critic: set critic.enable=null, or adv_estimator=grpo",
                "algorithm.adv_estimator",
            )
        mini_batch, batch = actor.ppo_mini_batch_size, self.data.train_batch_size
        if mini_batch is not None and mini_batch > batch:
            raise ConfigError(
                f"{actor.key('ppo_mini_batch_size')}={mini_batch} is more prompts than data.train_batch_size={batch}: "
                f"set it to {batch} or less, or leave it out",
                actor.key("ppo_mini_batch_size"),
            )
        mini_batch = self.critic.ppo_mini_batch_size
        if mini_batch is not None and mini_batch > batch:
            raise ConfigError(
                f"{self.critic.key('ppo_mini_batch_size')}={mini_batch} is more prompts than "
                f"data.train_batch_size={batch}: set it to {batch} or less, or leave it out",
                self.critic.key("ppo_mini_batch_size"),
            )
        buffer, limit = self.reward.overlong_buffer, self.data.max_response_length
        if buffer.enable and buffer.len >= limit:
            raise ConfigError(
                f"{buffer.key('len')}={buffer.len} must be below data.max_response_length={limit}", buffer.key("len")
            )

    @property
    def wants_discriminator(self) -> bool:
        """Whether the critic is to be a discriminator (GAD): one is asked for, and the advantage is not gae's."""
        if self.algorithm.adv_estimator == "gae" or self.critic.enable is False:
            return False
        trainer = self.trainer
        asked = self.critic.enable or self.critic.model.path is not None
        return bool(asked or trainer.critic_warmup > 0 or trainer.gad_warmup)

    @property
    def uses_value_critic(self) -> bool:
        """Whether a value critic is trained (PPO)."""
        return self.algorithm.adv_estimator == "gae"

    @property
    def shares_backbone(self) -> bool:
        """Whether that critic is a head on the actor's own model."""
        return self.uses_value_critic and self.critic.shared_backbone

    @property
    def uses_reference(self) -> bool:
        """Whether the loss or the reward needs a reference model."""
        return self.actor_rollout_ref.actor.use_kl_loss or self.algorithm.use_kl_in_reward


def _check_name(name: str, known: tuple[str, ...], key: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}? Known: " if near else "known: "
        raise ConfigError(
            f"{key}={name} is unknown; {hint}{', '.join(known)}. One of your own is found through "
            "algorithm.external_modules=[FILE.py]",
            key,
        )
