"""The root of the configuration: verl's key tree, with the checks that span several sections."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass, field

from gspo.config.fields import ConfigError, Section, option, section, to_dict
from gspo.config.schema_algorithm import (
    AlgorithmConfig,
    FilterGroupsConfig,
    KlCtrlConfig,
    RolloutCorrectionConfig,
)
from gspo.config.schema_critic import CriticConfig, CriticModelConfig, CriticOptimConfig, DiscriminatorConfig
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
from gspo.config.schema_run import TrainerConfig
from gspo.config.verl_keys import Refusal
from gspo.methods import ADVANTAGES, Advantage, PolicyLoss, loss_named

__all__ = [
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


@dataclass(frozen=True, kw_only=True)
class Config(Section):
    """All settings of a run.

    `load_config` makes one in which nothing that depends on another key is left open (clip ranges, loss_agg_mode,
    mini-batch size, names). No part of the tree are `user_set`, the dotted keys that a file or an override set
    (packaged presets do not count), `notes`, what composing it had to say, and `refused`, the settings of verl's that
    would change a run and cannot be honoured (`require_supported`).
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
    refused: tuple[Refusal, ...] = field(default=(), compare=False, repr=False)

    @property
    def policy_model(self) -> ModelConfig:
        """The section `actor_rollout_ref.model`."""
        return self.actor_rollout_ref.model

    @property
    def actor(self) -> ActorConfig:
        """The section `actor_rollout_ref.actor`."""
        return self.actor_rollout_ref.actor

    @property
    def rollout(self) -> RolloutConfig:
        """The section `actor_rollout_ref.rollout`."""
        return self.actor_rollout_ref.rollout

    @property
    def ref(self) -> RefConfig:
        """The section `actor_rollout_ref.ref`."""
        return self.actor_rollout_ref.ref

    @property
    def loss_facts(self) -> PolicyLoss:
        """What is known of the policy loss; the defaults of a row where its name is not known."""
        name = self.actor_rollout_ref.actor.policy_loss.loss_mode
        return loss_named(name) or PolicyLoss(name)

    @property
    def advantage_facts(self) -> Advantage:
        """What is known of the advantage; the defaults of a row where its name is not known."""
        name = self.algorithm.adv_estimator
        return ADVANTAGES.get(name) or Advantage(name)

    @property
    def wants_discriminator(self) -> bool:
        """Whether the critic is to be a discriminator (GAD): one is asked for, and the advantage needs no values."""
        if self.uses_value_critic or self.critic.enable is False:
            return False
        trainer = self.trainer
        asked = self.critic.enable or self.critic.model.path is not None
        return bool(asked or trainer.critic_warmup > 0 or trainer.gad_warmup)

    @property
    def uses_value_critic(self) -> bool:
        """Whether a value critic is trained (PPO)."""
        return self.advantage_facts.needs_values

    @property
    def shares_backbone(self) -> bool:
        """Whether that critic is a head on the actor's own model."""
        return self.uses_value_critic and self.critic.shared_backbone

    @property
    def uses_reference(self) -> bool:
        """Whether the loss or the reward needs a reference model."""
        return self.actor_rollout_ref.actor.use_kl_loss or self.algorithm.use_kl_in_reward
