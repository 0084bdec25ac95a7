"""The table of verl's keys that the schema does not have: `verl_keys.tsv`, read once, and what it says of a key.

People bring scripts and whole configurations of verl. Each of its keys is honoured under a key here, has no effect
here, or would change the result and is refused unless its value asks for nothing. The file says which, and why.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import yaml

__all__ = [
    "TOPICS",
    "Refusal",
    "Row",
    "above",
    "is_namespace",
    "is_verls",
    "legacy_default",
    "moved",
    "row_of",
    "rows",
    "same",
    "table",
]

# The topics of keys without effect, with what is said of several of them together; those of "off" go unsaid: whatever
# turns their method on is refused.
TOPICS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "memory": (
            "sharding and memory",
            "each process holds the whole model, and passes are split by tokens, which never changes an update",
        ),
        "precision": (
            "precision",
            "set actor_rollout_ref.model.dtype for the weights, and actor_rollout_ref.model.mixed_precision for "
            "products in bfloat16 over float32 ones",
        ),
        "engine": (
            "the engine that samples",
            "the local engine samples on the trainer's own weights and has no such setting",
        ),
        "run": (
            "processes, files and logging",
            "the loop runs in one process, and all that it writes is in the run's folder",
        ),
        "off": ("methods that are off", "the method that it belongs to is off"),
    }
)
_BRACES = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True)
class Refusal:
    """A setting that would change the run and cannot be honoured.

    Attributes:
        key: its key.
        setting: the key and its value, as messages show them, with the place that set it.
        reason: why not, and what to do.
    """

    key: str
    setting: str
    reason: str


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        kind: is, unset, none, refused or value, as the file's first lines explain them.
        pattern: its keys, with `{a,b}` for each of the two.
        argument: its third column.
        text: why, and what to do; empty for other spellings and unset values.
    """

    kind: str
    pattern: str
    argument: str
    text: str

    @property
    def reason(self) -> str:
        """Why the key has no effect, or is refused; the topic's where the row has none of its own."""
        return self.text or (TOPICS[self.argument][1] if self.kind == "none" else "")

    def values(self) -> list[Any]:
        """The values that the row is about; `= KEY` and `if KEY` stay texts."""
        return _values(self.argument)

    def names(self) -> Iterator[str]:
        """The keys that the pattern stands for."""
        parts = _BRACES.split(self.pattern)
        for choice in itertools.product(
            *(part.split(",") if index % 2 else [part] for index, part in enumerate(parts))
        ):
            yield "".join(choice)


@cache
def _values(argument: str) -> list[Any]:
    return [part if part.startswith(("= ", "if ")) else yaml.safe_load(part) for part in argument.split(", ")]


@cache
def rows() -> tuple[Row, ...]:
    """The rows of the file, in its order."""
    text = (resources.files("gspo.config") / "verl_keys.tsv").read_text(encoding="utf-8")
    lines = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return tuple(Row(*[*cells, ""][:4]) for cells in lines)


@dataclass(frozen=True)
class _Table:
    """The rows by key.

    Attributes:
        foreign: keys that the schema does not have, to their rows: none and refused.
        moved: other spellings, to the keys here.
        defaults: other spellings, to verl's default, where it has one that gives way.
        unset: keys to the value that means "not set".
        values: keys of the schema to the rows of values that are refused.
        sections: what lies above a key of the table.
    """

    foreign: dict[str, Row] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    unset: dict[str, Any] = field(default_factory=dict)
    values: dict[str, Row] = field(default_factory=dict)
    sections: set[str] = field(default_factory=set)


@cache
def table() -> _Table:
    """The rows by key."""
    found = _Table()
    for row in rows():
        for key in row.names():
            if row.kind == "value":
                found.values[key] = row
                continue
            found.sections.update(above(key))
            if row.kind == "is":
                target, *default = row.argument.split(", ")
                found.moved[key] = target.replace("*", key.rpartition(".")[2])
                if default:
                    found.defaults[key] = yaml.safe_load(default[0])
            elif row.kind == "unset":
                found.unset[key] = None if row.argument == "null" else row.argument
            else:
                found.foreign[key] = row
    return found


def above(key: str) -> Iterator[str]:
    """The keys above one, the nearest first."""
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def moved(key: str) -> str:
    """The key under which the schema has it: itself, where it is no other spelling."""
    spellings = table().moved
    for prefix in (key, *above(key)):
        if prefix in spellings:
            return spellings[prefix] + key[len(prefix) :]
    return key


def legacy_default(key: str) -> tuple[bool, Any]:
    """Whether verl has a default under this spelling that gives way to another, and which."""
    defaults = table().defaults
    return key in defaults, defaults.get(key)


def is_namespace(key: str) -> bool:
    """Whether keys of the table lie beneath this one, so that it is read as a mapping."""
    return key in table().sections


def row_of(key: str) -> Row | None:
    """The row of a key that only verl has: that of the longest key which it is or lies beneath; None: there is none."""
    foreign = table().foreign
    return next((foreign[prefix] for prefix in (key, *above(key)) if prefix in foreign), None)


def is_reference(value: Any) -> bool:
    """Whether a value of a row is `= KEY`, the value of a key here."""
    return isinstance(value, str) and value.startswith("= ")


def is_verls(key: str, value: Any) -> bool:
    """Whether verl has this value of a key that both have, and this project has not."""
    row = table().values.get(key)
    return row is not None and any(same(value, one) for one in row.values())


def same(value: Any, other: Any) -> bool:
    """Whether two values of YAML, a shell or a printed Python dictionary say the same: `None` is null, `0.0` is 0."""
    return bool(_plain(value) == _plain(other))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        if value in ("None", "null", ""):
            return None
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        try:
            return float(value)
        except ValueError:
            return value
    if isinstance(value, Mapping):
        return None if all(_plain(part) is None for part in value.values()) else value
    return None if value == [] else value
