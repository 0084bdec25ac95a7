"""Settings by dotted key, each with the place it came from, before they become a Config."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Any

from gspo.config.convert import ConfigError, show
from gspo.config.fields import children, leaves, type_hints
from gspo.config.other_names import key_elsewhere
from gspo.config.schema import Config
from gspo.config.texts import text_problem
from gspo.config.verl_keys import above, is_namespace, is_reference, legacy_default, moved, row_of, same, table
from gspo.methods import loss_named
from gspo.shell import gspo_command

__all__ = ["Settings", "full_key", "known_keys", "section_keys", "takes_null"]

# Likeness of a long key to itself with a letter or two wrong.
_ONE_SLIP = 0.95


@cache
def known_keys() -> dict[str, Any]:
    """Every leaf of the schema by dotted key, with its declared type."""

    def walk(kind: type[Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name in leaves(kind):
            yield prefix + name, type_hints(kind)[name]
        for name, child in children(kind).items():
            yield from walk(child, f"{prefix}{name}.")

    return dict(walk(Config, ""))


@cache
def section_keys() -> frozenset[str]:
    """The dotted keys of the schema's sections."""
    return frozenset(section for key in known_keys() for section in above(key))


def takes_null(key: str) -> bool:
    """Whether a key of the schema may be null."""
    return types.NoneType in typing.get_args(known_keys().get(key))


def full_key(name: str) -> str:
    """The key that a setting's name means: itself with a dot or as a section, else the one key that ends in it.

    Of several, it is the one of `trainer`, else of `data`, else the policy's, before the critic's or the validation's.

    Raises:
        ConfigError: several keys end in it, or none does.
    """
    if "." in name or name in section_keys() or is_namespace(name):
        return name
    ends = sorted(key for key in {*known_keys(), *section_keys()} if key.rpartition(".")[2] == name)
    of_trainer = [key for key in ends if key.startswith("trainer.")]
    of_run = [key for key in ends if key.startswith(("trainer.", "data."))]
    of_policy = [key for key in ends if not key.startswith("critic.") and ".val_kwargs." not in key]
    for found in (ends, of_trainer, of_run, of_policy):
        if len(found) == 1:
            return found[0]
    if ends:
        raise ConfigError(f"the setting {name} may be {' or '.join(ends)}: write the full key", name)
    raise _unknown(name, f"setting {name}")


def _mapping_above(key: str) -> str | None:
    """The free-form mapping (as `override_config`) that a key is beneath, where it is beneath one."""
    return next((name for name in above(key) if typing.get_origin(known_keys().get(name)) is dict), None)


@dataclass
class Settings:
    """What one source sets, or several that were merged.

    Attributes:
        values: schema keys to raw values; keys beneath a free-form mapping are part of its value.
        origins: what each key, those of verl included, was set by: for messages.
        spelled: how the source wrote each key.
        foreign: keys that only verl has, to raw values: without effect here, or refused when a run starts.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    spelled: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, Any] = field(default_factory=dict)

    def put(self, key: str, value: Any, origin: str) -> None:
        """Sets a dotted key, or the keys beneath it where it is a section and the value a mapping.

        Raises:
            ConfigError: the key is unknown, its section is given no mapping, or two spellings of it differ.
        """
        name = moved(key)
        if name.endswith(".policy_loss") and isinstance(value, str):
            name += ".loss_mode"
        if value == "???" or _is_unset(key, name, value):
            return
        if _is_class(name):
            self.foreign[name], self.origins[name] = value, origin
        elif name in known_keys() and not value:  # a free-form mapping without entries is set too
            self._put_leaf(name, value, key, origin)
        elif (name in section_keys() or is_namespace(name)) and (value is None or isinstance(value, Mapping)):
            for child, entry in (value or {}).items():
                self.put(f"{key}.{child}", entry, origin)
        elif name in known_keys() or (_mapping_above(name) and name not in table().foreign):
            self._put_leaf(name, _canonical_value(name, value), key, origin)
        elif row_of(name) is not None:
            self.foreign[name], self.origins[name] = value, origin
        elif name in section_keys() or is_namespace(name):
            raise ConfigError(f"{key}={show(value)} ({origin}): expected a mapping of its keys", key)
        else:
            raise _unknown(key, origin)

    def _put_leaf(self, key: str, value: Any, spelled: str, origin: str) -> None:
        if problem := text_problem(value, spelled, nul=False):
            raise ConfigError(f"{problem} ({origin})", key)
        mapping = _mapping_above(key)
        if mapping is not None:
            for part in reversed(key.removeprefix(f"{mapping}.").split(".")):
                value = {part: value}
            key = spelled = mapping
        if key in self.values and self.spelled[key] != spelled and not same(self.values[key], value):
            if _gives_way(spelled, value):
                return
            if not _gives_way(self.spelled[key], self.values[key]):
                raise ConfigError(
                    f"{spelled}={show(value)} ({origin}) and {self.spelled[key]}={show(self.values[key])} "
                    f"({self.origins[key]}) are two spellings of {key}: keep one",
                    key,
                )
        self.values[key] = _merged(self.values.get(key), value)
        self.origins[key], self.spelled[key] = origin, spelled

    def merge(self, other: Settings) -> None:
        """Lays other settings over these, without its copies.

        A configuration that verl has resolved repeats a group's size and the lengths under several keys. What lies
        over it sets one of them.
        """
        copies = {key for key, value in other.foreign.items() if other._is_copy(key, value)}
        for key, value in other.values.items():
            self.values[key] = _merged(self.values.get(key), value)
        self.origins |= other.origins
        self.spelled |= other.spelled
        self.foreign = {key: value for key, value in (self.foreign | other.foreign).items() if key not in copies}

    def _is_copy(self, key: str, value: Any) -> bool:
        """Whether a key of verl's has the value that the same source gives the key which counts here."""
        row = row_of(key)
        if row is None or row.kind != "refused":
            return False
        sources = [part.removeprefix("= ") for part in row.values() if is_reference(part)]
        return any(source in self.values and same(self.values[source], value) for source in sources)

    def reset(self, key: str, origin: str) -> None:
        """Takes a key, and everything beneath it, back to its default, where it may be already.

        Raises:
            ConfigError: the key is unknown.
        """
        name = moved(key)
        for gone in [known for known in self.foreign if known == name or known.startswith(f"{name}.")]:
            del self.foreign[gone], self.origins[gone]
        if mapping := _mapping_above(name):
            *path, last = name.removeprefix(f"{mapping}.").split(".")
            entries = self.values.get(mapping)
            for part in path:
                entries = entries.get(part) if isinstance(entries, Mapping) else None
            if isinstance(entries, dict):
                entries.pop(last, None)
        elif name in known_keys() or name in section_keys():
            for known in [known for known in self.values if known == name or known.startswith(f"{name}.")]:
                del self.values[known], self.origins[known], self.spelled[known]
        elif row_of(name) is None and not is_namespace(name):
            raise _unknown(key, origin)


def _is_unset(spelled: str, key: str, value: Any) -> bool:
    """Whether a value means that the key is not set: verl's stand-in, or null under a spelling whose default it is."""
    unset = table().unset
    if key in unset and same(value, unset[key]):
        return True
    return value is None and spelled != key and not takes_null(key) and legacy_default(spelled)[0]


def _gives_way(spelled: str, value: Any) -> bool:
    """Whether a spelling holds null, or the default of verl, so that another spelling of the key counts."""
    has_default, default = legacy_default(spelled)
    return value is None or (has_default and same(value, default))


def _is_class(key: str) -> bool:
    """Whether a key names the class of a section of Hydra's, as verl's own files do in each."""
    parent, _, name = key.rpartition(".")
    if name not in ("_target_", "_convert_", "_recursive_") or _mapping_above(key):
        return False
    return parent in section_keys() or is_namespace(parent) or row_of(parent) is not None


def _canonical_value(key: str, value: Any) -> Any:
    """The value under which the schema knows it: a loss under its name, where an alias is given (`ppo`)."""
    if (
        key == "actor_rollout_ref.actor.policy_loss.loss_mode"
        and isinstance(value, str)
        and (loss := loss_named(value))
    ):
        return loss.name
    return value


def _merged(below: Any, above: Any) -> Any:
    """Mappings entry by entry; anything else is replaced."""
    if not (isinstance(below, Mapping) and isinstance(above, Mapping)):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


def _of_another_trainer(key: str) -> list[str]:
    """The key that is meant by another trainer's name: in the section that it was written in, where it is there."""
    meant = key_elsewhere(key)
    if meant is None:
        return []
    beside = f"{key.rpartition('.')[0]}.{meant.rpartition('.')[2]}"
    return [beside if beside in known_keys() else meant]


def _unknown(key: str, origin: str) -> ConfigError:
    candidates = sorted({*known_keys(), *section_keys()})
    name = key.rpartition(".")[2]
    near = [candidate for candidate in candidates if candidate.rpartition(".")[2] == name]
    near += _of_another_trainer(key)
    near += get_close_matches(key, candidates, n=3, cutoff=0.8)
    if not near:
        last_names = {candidate.rpartition(".")[2]: candidate for candidate in candidates}
        near = [last_names[match] for match in get_close_matches(name, list(last_names), n=2, cutoff=0.7)]
    of_verl = [candidate for candidate in (*table().foreign, *table().moved) if candidate not in section_keys()]
    near = get_close_matches(key, of_verl, n=1, cutoff=_ONE_SLIP if near else 0.8) + near
    hint = (
        f"did you mean {' or '.join(list(dict.fromkeys(near))[:3])}?"
        if near
        else f"`{gspo_command('config')}` prints every key"
    )
    return ConfigError(f"unknown key {key} ({origin}): {hint}", key)
