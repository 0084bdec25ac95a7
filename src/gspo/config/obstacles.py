"""What keeps a command from starting: settings that cannot be honoured, each with the reason and what to do."""

from __future__ import annotations

from collections.abc import Iterator

from gspo.config.schema import Config

__all__ = ["obstacles", "unhonoured"]


def obstacles(config: Config) -> list[tuple[str, str]]:
    """Keys of what keeps a run of `gspo train` from starting, each with the line that says why and what to do."""
    return [*unhonoured(config), *_unsupported(config)]


def unhonoured(config: Config) -> Iterator[tuple[str, str]]:
    """Keys of what no command honours, each with the line that says so."""
    for refusal in config.refused:
        yield refusal.key, f"{refusal.setting}: {refusal.reason}"
    buffer, limit = config.reward.overlong_buffer, config.data.max_response_length
    key = buffer.key("len")
    if buffer.enable and buffer.len == 0:
        yield (
            key,
            f"{buffer.key('enable')}=true needs a length: set {key}, say to a fifth of data.max_response_length",
        )
    elif buffer.enable and buffer.len >= limit:
        yield key, f"{key}={buffer.len} must be below data.max_response_length={limit}: lower it, or raise that"


def _unsupported(config: Config) -> Iterator[tuple[str, str]]:
    """Keys of what cannot be trained, each with the line that says so."""
    advantage, n = config.advantage_facts, config.actor_rollout_ref.rollout.n
    if advantage.per_reward and config.algorithm.use_kl_in_reward:
        yield (
            "algorithm.use_kl_in_reward",
            f"algorithm.adv_estimator={advantage.name} normalises each reward on its own and leaves the divergence "
            "out: set algorithm.use_kl_in_reward=false and actor_rollout_ref.actor.use_kl_loss=true",
        )
    if n < advantage.min_responses:
        yield (
            "actor_rollout_ref.rollout.n",
            f"algorithm.adv_estimator={advantage.name} needs {advantage.min_responses} responses of a prompt or more: "
            f"set actor_rollout_ref.rollout.n={max(8, advantage.min_responses)}",
        )
    if config.algorithm.filter_groups.enable and n == 1:
        yield (
            "algorithm.filter_groups.enable",
            "algorithm.filter_groups.enable=true drops every group of one response: set actor_rollout_ref.rollout.n=8",
        )
    correction, val = config.algorithm.rollout_correction, config.rollout.val_kwargs
    if correction.active and correction.bypass_mode:
        yield (
            correction.key("bypass_mode"),
            f"{correction.key('bypass_mode')}=true takes the rollout's policy for the old one, which leaves nothing to "
            "correct: set it to null, or take rollout_is and rollout_rs out",
        )
    if val.do_sample and val.temperature == 0:
        yield (
            val.key("do_sample"),
            f"{val.key('do_sample')}=true needs a temperature: set {val.key('temperature')}=1.0",
        )
    if config.critic.shared_backbone:
        yield from _unsharable(config)


def _unsharable(config: Config) -> Iterator[tuple[str, str]]:
    """What keeps the critic from being a head on the actor's model."""
    if config.wants_discriminator:
        yield (
            "critic.shared_backbone",
            "critic.shared_backbone=true is of PPO's value critic, and a discriminator (GAD) judges the actor from a "
            "model of its own: take it out, or set algorithm.adv_estimator=gae",
        )
    if config.uses_value_critic and config.critic.model.path is not None:
        yield (
            "critic.model.path",
            f"critic.model.path={config.critic.model.path} is a second model, and critic.shared_backbone=true puts the "
            "value head on the actor's own: take one of them out",
        )
