"""What a run must have set, and must not ask for, before it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import reduce

from gspo.config.convert import ConfigError
from gspo.config.obstacles import obstacles, unhonoured
from gspo.config.schema import Config, to_dict
from gspo.config.secrets import hidden_keys
from gspo.config.usage import key_facts

__all__ = ["require_honoured", "require_keys", "require_one_process", "require_supported"]

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
    _raise_all(list(unhonoured(config)))


def require_supported(config: Config) -> None:
    """Checks that the configuration asks for nothing that is read but cannot be trained.

    Raises:
        ConfigError: it does; lists all of it, each with what to set in its place.
    """
    _raise_all(obstacles(config))


def _raise_all(problems: list[tuple[str, str]]) -> None:
    if len(problems) == 1:
        raise ConfigError(problems[0][1], problems[0][0])
    if problems:
        lines = "\n".join(f"  {line}" for _, line in problems)
        raise ConfigError(f"{len(problems)} settings cannot be honoured:\n{lines}", problems[0][0])
