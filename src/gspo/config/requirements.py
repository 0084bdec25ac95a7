"""What a run must have set, and must not ask for, before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import reduce

from gspo.config.convert import ConfigError, show
from gspo.config.schema import Config, to_dict
from gspo.config.secrets import hidden_keys
from gspo.config.usage import key_facts

__all__ = ["require_keys", "require_one_process", "require_supported"]

# Key, the value that asks for nothing, and what is missing.
_NOT_YET = (
    ("trainer.nnodes", 1, "this release trains in one process"),
    ("trainer.n_gpus_per_node", 1, "this release trains in one process"),
)

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


def require_supported(config: Config) -> None:
    """Checks that the configuration asks for nothing that is read but cannot be trained.

    Raises:
        ConfigError: it does; says what to set in its place.
    """
    advantage, n = config.advantage_facts, config.actor_rollout_ref.rollout.n
    if advantage.per_reward and config.algorithm.use_kl_in_reward:
        raise ConfigError(
            f"algorithm.adv_estimator={advantage.name} normalises each reward on its own and leaves the divergence "
            "out: set algorithm.use_kl_in_reward=false and actor_rollout_ref.actor.use_kl_loss=true",
            "algorithm.use_kl_in_reward",
        )
    if n < advantage.min_responses:
        raise ConfigError(
            f"algorithm.adv_estimator={advantage.name} needs {advantage.min_responses} responses of a prompt or more: "
            f"set actor_rollout_ref.rollout.n={max(8, advantage.min_responses)}",
            "actor_rollout_ref.rollout.n",
        )
    if config.algorithm.filter_groups.enable and n == 1:
        raise ConfigError(
            "algorithm.filter_groups.enable=true drops every group of one response: set actor_rollout_ref.rollout.n=8",
            "algorithm.filter_groups.enable",
        )
    if config.critic.shared_backbone:
        _require_sharable(config)
    for key, neutral, what in _NOT_YET:
        if (value := reduce(getattr, key.split("."), config)) != neutral:
            raise ConfigError(f"{key}={show(value)}: {what}: set it to {show(neutral)}", key)


def _require_sharable(config: Config) -> None:
    """Checks that the critic can be a head on the actor's model."""
    if config.wants_discriminator:
        raise ConfigError(
            "critic.shared_backbone=true is of PPO's value critic, and a discriminator (GAD) judges the actor from a "
            "model of its own: take it out, or set algorithm.adv_estimator=gae",
            "critic.shared_backbone",
        )
    if config.uses_value_critic and config.critic.model.path is not None:
        raise ConfigError(
            f"critic.model.path={config.critic.model.path} is a second model, and critic.shared_backbone=true puts the "
            "value head on the actor's own: take one of them out",
            "critic.model.path",
        )
