"""OmegaConf's `${...}` in settings, resolved where each was written, so that `${.next_to_it}` works too."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import cache
from time import strftime
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gspo.config.convert import ConfigError
from gspo.config.settings import Settings
from gspo.config.verl_keys import row_of

__all__ = ["resolved"]


def resolved(settings: Settings, base: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and verl's own keys with `${...}` replaced by what they stand for.

    Of verl's keys without effect nothing is resolved: what they refer to may be nowhere.

    Args:
        settings: by dotted key.
        base: the whole tree that they are laid over, for keys that none of them sets.

    Raises:
        ConfigError: something that is referred to is not there; names the key.
    """
    values, foreign = copy.deepcopy(settings.values), copy.deepcopy(settings.foreign)
    waiting = [key for key in values if _refers(values[key])]
    asked = [key for key in foreign if _refers(foreign[key]) and _is_read(key)]
    if not (waiting or asked):
        return values, foreign
    tree = OmegaConf.create(_tree(settings, base))
    for key in waiting:
        values[key] = _select(tree, _place(settings, key), key)
    for key in asked:
        foreign[key] = _select(tree, key, key)
    return values, foreign


def _refers(value: Any) -> bool:
    return "${" in str(value)


def _is_read(key: str) -> bool:
    row = row_of(key)
    return row is not None and row.kind == "refused"


def _place(settings: Settings, key: str) -> str:
    """Where a setting was written, other spellings included; a text at `policy_loss` is where its loss_mode is."""
    spelled = settings.spelled[key]
    return key if key.startswith(f"{spelled}.") else spelled


def _tree(settings: Settings, base: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = copy.deepcopy(dict(base))
    for key, value in settings.foreign.items():
        _put(tree, key, value)
    for key, value in settings.values.items():
        _put(tree, _place(settings, key), value)
        _put(tree, key, value)
    return tree


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, name = key.split(".")
    for part in path:
        if not isinstance(tree.get(part), dict):
            tree[part] = {}
        tree = tree[part]
    if not (isinstance(tree.get(name), dict) and not isinstance(value, Mapping)):
        tree[name] = value


def _select(tree: DictConfig, place: str, key: str) -> Any:
    _register_now()
    try:
        value = OmegaConf.select(tree, place)
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException as error:
        raise ConfigError(f"{key} cannot be resolved: {str(error).splitlines()[0]}", key) from None


@cache
def _register_now() -> None:
    """Hydra's resolver `${now:%Y-%m-%d}`, which names folders and runs."""
    if not OmegaConf.has_resolver("now"):
        OmegaConf.register_new_resolver("now", strftime, use_cache=True)
