"""What the rules must know of a run's settings."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from gspo.config import Config
from gspo.methods import PolicyLoss

__all__ = ["Facts"]


@dataclass(frozen=True)
class Facts:
    """The settings in force, as far as a warning depends on them.

    Attributes:
        lr: the policy's peak learning rate.
        loss: what is known of the policy loss.
        clip: (low, high), where it clips.
        updates: optimizer steps on each batch of rollouts.
        n: responses for each prompt.
        max_response_length: tokens at which a response is cut.
        runs_on: responses are cut there on purpose (`ignore_eos`).
        compares_groups: a response is measured against the others of its prompt, so that equal rewards teach nothing.
        filters: groups of equal rewards are left out and others sampled in their place.
        distils: the reward is a discriminator's (GAD).
        kl_per_token: the divergence from the reference is in the loss, in nats a token.
        kl_loss_coef: its weight.
        reward_key: what says how responses are scored: a key, an argument, or the rows themselves.
        chance_loss: the discriminator's loss where it tells nothing apart.
    """

    lr: float = 1e-6
    loss: PolicyLoss = field(default_factory=lambda: PolicyLoss("vanilla"))
    clip: tuple[float, float] | None = None
    updates: int = 1
    n: int = 8
    max_response_length: int = 512
    runs_on: bool = False
    compares_groups: bool = True
    filters: bool = False
    distils: bool = False
    kl_per_token: bool = False
    kl_loss_coef: float = 0.0
    reward_key: str = "reward.functions"
    chance_loss: float = math.log(2)

    @classmethod
    def of(cls, config: Config, *, own_rewards: bool = False) -> Facts:
        """Those of a resolved configuration.

        Args:
            config: the configuration.
            own_rewards: a program gave its reward functions as objects.
        """
        actor, rollout, discriminator = config.actor, config.rollout, config.critic.discriminator
        mini_batch = actor.ppo_mini_batch_size or config.data.train_batch_size
        low, high = actor.clip_ratio_low, actor.clip_ratio_high
        return cls(
            lr=actor.optim.lr,
            loss=config.loss_facts,
            clip=None if config.loss_facts.clip is None or low is None or high is None else (low, high),
            updates=math.ceil(config.data.train_batch_size / mini_batch) * actor.ppo_epochs,
            n=rollout.n,
            max_response_length=config.data.max_response_length,
            runs_on=rollout.ignore_eos,
            compares_groups=config.advantage_facts.compares_groups and rollout.n > 1,
            filters=config.algorithm.filter_groups.enable,
            distils=config.wants_discriminator,
            kl_per_token=actor.use_kl_loss and actor.loss_agg_mode in ("token-mean", "seq-mean-token-mean"),
            kl_loss_coef=actor.kl_loss_coef,
            reward_key=_reward_key(config, own_rewards),
            chance_loss=math.log1p(math.exp(discriminator.margin / discriminator.temperature)),
        )


def _reward_key(config: Config, own_rewards: bool) -> str:
    if own_rewards:
        return "rewards="
    if config.custom_reward_function.path:
        return "custom_reward_function.path"
    return "reward.functions" if config.reward.functions else "by the rows' data_source"
