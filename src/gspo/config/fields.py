"""The field of a configuration: a default, one line of text and the values that it takes.

A section is a frozen dataclass whose fields are made by `option` (a leaf) or `section` (a nested dataclass). Its
`__post_init__` brings every leaf to its declared type and holds it to its bounds, so none with a bad value exists.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from gspo.config.convert import ConfigError, convert, show

__all__ = ["ConfigError", "Section", "children", "leaves", "option", "section", "to_dict", "type_hints"]


def option(
    default: Any,
    line: str,
    *,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
) -> Any:
    """A leaf of the tree: its default, the line that documents it and its bounds (which None and lists do not have)."""
    metadata = {"line": line, "choices": tuple(choices), "at_least": at_least, "above": above, "at_most": at_most}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type[Any], line: str) -> Any:
    """A nested section with all its defaults."""
    return field(default_factory=kind, metadata={"line": line, "section": kind})


def type_hints(kind: type[Any]) -> dict[str, Any]:
    """The declared types of a section's fields."""
    return typing.get_type_hints(kind)


def leaves(kind: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The leaf fields of a section by name."""
    return {f.name: f for f in dataclasses.fields(kind) if "line" in f.metadata and "section" not in f.metadata}


def children(kind: type[Any]) -> dict[str, type[Any]]:
    """The nested sections of a section by name."""
    return {f.name: f.metadata["section"] for f in dataclasses.fields(kind) if "section" in f.metadata}


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every section. `KEY` is the section's dotted place in the tree, for messages."""

    KEY: ClassVar[str] = ""

    @classmethod
    def key(cls, name: str) -> str:
        """The dotted key of a field of this section."""
        return f"{cls.KEY}.{name}" if cls.KEY else name

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for name, spec in leaves(type(self)).items():
            value = convert(getattr(self, name), hints[name], self.key(name))
            object.__setattr__(self, name, value)
            _check_bounds(value, spec.metadata, self.key(name))


def _check_bounds(value: Any, bounds: Mapping[str, Any], key: str) -> None:
    if isinstance(value, str) and bounds["choices"] and value not in bounds["choices"]:
        raise ConfigError(f"{key}={show(value)} is not one of {', '.join(bounds['choices'])}", key)
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{key}=nan is not a number: set one", key)
    if bounds["at_least"] is not None and value < bounds["at_least"]:
        raise ConfigError(f"{key}={show(value)} is too small: set it to {bounds['at_least']} or more", key)
    if bounds["above"] is not None and value <= bounds["above"]:
        raise ConfigError(f"{key}={show(value)} is too small: set it above {bounds['above']}", key)
    if bounds["at_most"] is not None and value > bounds["at_most"]:
        raise ConfigError(f"{key}={show(value)} is too large: set it to {bounds['at_most']} or less", key)


def to_dict(node: Section) -> dict[str, Any]:
    """The tree as plain dicts, lists and scalars, in the order of the schema."""
    tree: dict[str, Any] = {}
    for spec in dataclasses.fields(node):
        value = getattr(node, spec.name)
        if "section" in spec.metadata:
            tree[spec.name] = to_dict(value)
        elif "line" in spec.metadata:
            items = isinstance(value, list)
            tree[spec.name] = [to_dict(v) if isinstance(v, Section) else v for v in value] if items else value
    return tree
