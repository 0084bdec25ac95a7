"""Overrides of the command line, in Hydra's grammar: `key=value`, `+key=value`, `++key=value` and `~key`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from gspo.config.convert import ConfigError
from gspo.config.secrets import masked_text
from gspo.config.settings import Settings

__all__ = ["apply_overrides", "setting"]

# Characters of an override that cannot be read, in its message.
_LONGEST_SHOWN = 300
# A value, or an item of a list, that begins with the home folder. A shell leaves it as it is behind `key=`.
_HOME = re.compile(r"(?<=[=\[,])~[^,\[\]{}]*")


def setting(key: str, text: object) -> str:
    """The override that sets a key to this very text, whatever signs are in it."""
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), str(text))
    return f'{key}="{escaped}"'


def apply_overrides(settings: Settings, overrides: Sequence[str], user_set: set[str]) -> None:
    """Lays overrides over settings, in their order. A `+` makes no difference: every key exists already.

    Args:
        settings: changed in place.
        overrides: as the shell delivers them.
        user_set: receives the keys that are set, loses those that are deleted.

    Raises:
        ConfigError: one cannot be parsed, sweeps, or sets a key that is unknown.
    """
    given = Settings()
    for text in overrides:
        override = _parse(_with_home_quoted(text))
        key, origin = override.key_or_group, f"override {masked_text(text)}"
        if not override.is_delete():
            given.put(key, override.value(), origin)
            continue
        for layer in (settings, given):
            layer.reset(key, origin)
        user_set -= {name for name in user_set if name == key or name.startswith(f"{key}.")}
    settings.merge(given)
    user_set |= {*given.values, *given.foreign}


def _with_home_quoted(text: str) -> str:
    """Hydra's grammar has no `~` in a value without quotes."""
    return text if '"' in text or "'" in text else _HOME.sub(lambda found: f'"{found[0]}"', text)


@cache
def _parser() -> OverridesParser:
    return OverridesParser.create()


def _parse(text: str) -> Override:
    try:
        override = _parser().parse_override(text)
    except (HydraException, ValueError, RecursionError) as error:  # a number of 5000 digits, brackets of 3000 levels
        shown = masked_text(text)
        reason = str(error).splitlines()[0] if shown == text else "its value is not of Hydra's grammar"
        shown = shown if len(shown) <= _LONGEST_SHOWN else f"{shown[:_LONGEST_SHOWN]} ..."
        raise ConfigError(
            f"cannot read the override {shown}: {reason}. Write key=value; a value with spaces, braces, commas or "
            "other signs goes into quotes within the shell's: 'key=\"value\"'"
        ) from None
    if override.package is not None:
        raise ConfigError(f"override {masked_text(text)}: config groups (@) are not read; write the full key")
    if override.is_sweep_override():
        shown = masked_text(text)
        raise ConfigError(
            f"override {shown} names several values: give one, start one run per value, or write a list as "
            f"{override.key_or_group}=[{shown.partition('=')[2]}]"
        )
    if override.is_delete() and override.value() not in (None, ""):
        raise ConfigError(f"override {masked_text(text)}: write ~{override.key_or_group} without a value")
    return override
