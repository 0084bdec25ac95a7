"""Which keys `gspo config` prints: all, those of the sections that are named, or those that the user has set."""

from __future__ import annotations

from collections.abc import Sequence

from gspo.config import Config, ConfigError
from gspo.config.settings import Settings, full_key, known_keys, section_keys
from gspo.config.verl_keys import moved, row_of

__all__ = ["printed_keys"]


def printed_keys(config: Config, named: Sequence[str], *, set_only: bool) -> list[str] | None:
    """The dotted keys to print; None for all.

    Args:
        config: resolved, with the keys that the user has set.
        named: sections and keys, each by its dotted name or by the last part of it.
        set_only: only what the user has set.

    Raises:
        ConfigError: there is no section or key of a name; names the nearest.
    """
    sections = [_named(name) for name in named]
    if not set_only:
        return sections or None
    keys = [key for key in known_keys() if key in config.user_set]
    return [key for key in keys if not sections or any(f"{key}.".startswith(f"{section}.") for section in sections)]


def _named(name: str) -> str:
    key = moved(full_key(name))
    if key in known_keys() or key in section_keys():
        return key
    Settings().reset(key, f"argument {name}")  # raises for what is no key of verl either
    row = row_of(key)
    why = f": {row.reason}" if row is not None else ""
    raise ConfigError(f"{name} has no value of its own here{why}", name)
