"""What a run must have set, and must not ask for, before it starts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import reduce

from gspo.config.convert import ConfigError
from gspo.config.schema import Config, to_dict
from gspo.config.secrets import hidden_keys
from gspo.config.usage import key_facts

__all__ = ["obstacles", "require_honoured", "require_keys", "require_one_process", "require_supported"]

# How launchers tell a process how many of it there are.
_LAUNCHERS = {"WORLD_SIZE": "torchrun", "OMPI_COMM_WORLD_SIZE": "mpirun"}


def require_one_process(environment: Mapping[str, str] | None = None) -> None:
    """Checks that no launcher has started this command several times: each would do the whole of it.

    Args:
        environment: the process's variables; None: those of this one.

    Raises:
        ConfigError: one has; says how to start it.
    """
    environment = os.environ if environment is None else environment
    for name, launcher in _LAUNCHERS.items():
        size = environment.get(name, "")
        if size.isdigit() and int(size) > 1:
            raise ConfigError(
                f"{launcher} starts {size} processes ({name}={size}), and this release trains in one: leave {launcher} "
                f"out, and start the command itself (where there is no launcher: unset {name})"
            )


def require_keys(config: Config, *keys: str) -> None:
    """Checks that these keys, which have no default, are set, and that no secret is the `***` of a printed one.

    Raises:
        ConfigError: one is not, with an example; or a secret was hidden where the configuration was printed.
    """
    for key in hidden_keys(to_dict(config)):
        raise ConfigError(f"{key} is hidden in the configuration that was printed: set its value", key)
    for key in keys:
        if not reduce(getattr, key.split("."), config):
            example = key_facts()[key].metadata["example"] or "VALUE"
            raise ConfigError(f"{key} is not set: set it, as in {key}={example}", key)


def require_honoured(config: Config) -> None:
    """Checks what holds for every command: that nothing of verl is asked for that would change the result and is not
    here, and that the penalty for length has room.

    Raises:
        ConfigError: something is amiss; lists all of it, each with the reason and what to do.
    """
    _raise_all(list(_unhonoured(config)))


def require_supported(config: Config) -> None:
    """Checks that the configuration asks for nothing that is read but cannot be trained.

    Raises:
        ConfigError: it does; lists all of it, each with what to set in its place.
    """
    _raise_all(obstacles(config))


def obstacles(config: Config) -> list[tuple[str, str]]:
    """Keys of what keeps a run of `gspo train` from starting, each with the line that says why and what to do."""
    return [*_unhonoured(config), *_unsupported(config)]


def _raise_all(problems: list[tuple[str, str]]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0][1], problems[0][0])
    if problems:
        lines = "\n".join(f"  {line}" for _, line in problems)
        raise ConfigError(f"{len(problems)} settings cannot be honoured:\n{lines}", problems[0][0])


def _unhonoured(config: Config) -> Iterator[tuple[str, str]]:
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
