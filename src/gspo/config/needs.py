"""What keys have no effect without: the conditions that the schema names at its fields."""

from __future__ import annotations

from gspo.config.fields import Needs

__all__ = ["CRITIC", "DISCRIMINATOR", "OWN_CRITIC_MODEL", "SHARED_BACKBONE", "VALUES"]

DISCRIMINATOR = Needs(
    "no effect without a discriminator (critic.model.path with grpo trains one)",
    lambda config: config.wants_discriminator,
)
CRITIC = Needs(
    "no effect without a critic (algorithm.adv_estimator=gae trains one)",
    lambda config: config.critic.enable,
)
VALUES = Needs(
    "no effect with a discriminator, which has no values to clip: take it out",
    lambda config: not config.wants_discriminator,
)
SHARED_BACKBONE = Needs(
    "no effect without critic.shared_backbone=true: set that, or take it out",
    lambda config: config.critic.shared_backbone,
)
OWN_CRITIC_MODEL = Needs(
    "no effect with critic.shared_backbone=true, whose value head is updated with the actor: set the same under "
    "actor_rollout_ref.actor, or take it out",
    lambda config: not config.shares_backbone,
)
