"""The field of a configuration: a default, one line of text, the values that it takes, and where it has an effect.

A section is a frozen dataclass whose fields are made by `option` (a leaf) or `section` (a nested dataclass). Its
`__post_init__` brings every leaf to its declared type and holds it to its bounds, so none with a bad value exists.
All that is known of a key is at its field; `leaves_below` finds it by the dotted key.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, TypeVar, cast

from gspo.config.convert import ConfigError, convert, show
from gspo.config.paths import expanded_text
from gspo.config.secrets import masked

__all__ = [
    "COMMANDS",
    "ConfigError",
    "Leaf",
    "Needs",
    "Section",
    "children",
    "leaves",
    "leaves_below",
    "option",
    "section",
    "to_dict",
    "type_hints",
]

# The commands that read keys. `gspo compare` and the quickstarts train; `gspo config` prints.
COMMANDS = ("train", "sft", "eval")

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Needs:
    """What a key has no effect without.

    Attributes:
        otherwise: what is said of a key, behind its name, where this does not hold: that it has no effect, and what to
            do.
        holds: whether it does, for a resolved `Config`.
    """

    otherwise: str
    holds: Callable[[Any], bool]


def option(
    default: Any,
    line: str,
    *,
    choices: Sequence[str] = (),
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    read_by: Sequence[str] | None = None,
    only_with: Needs | Sequence[Needs] | None = None,
    turns_on: Needs | None = None,
    example: str | None = None,
    path: bool | Callable[[str], bool] = False,
) -> Any:
    """A leaf of the tree.

    Args:
        default: its default.
        line: the line that documents it.
        choices: the texts that it takes, where not any.
        at_least, above, at_most: its bounds, which None and lists do not have.
        read_by: the commands of `COMMANDS` in which it has an effect; None: those of its section's READ_BY.
        only_with: without any of these it has none; None: those of its section's ONLY_WITH.
        turns_on: what setting it asks for.
        example: a value, for messages.
        path: whether its texts are paths, in which `~` is expanded; or the function that says which of them are.
    """
    metadata: dict[str, Any] = {
        "line": line,
        "choices": tuple(choices),
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "read_by": None if read_by is None else tuple(read_by),
        "only_with": (only_with,) if isinstance(only_with, Needs) else only_with,
        "turns_on": turns_on,
        "example": example,
        "path": path,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def section(kind: type[Any], line: str) -> Any:
    """A nested section with all its defaults."""
    return field(default_factory=kind, metadata={"line": line, "section": kind})


def _once_per_section(function: Callable[[type[Any]], _Value]) -> Callable[[type[Any]], _Value]:
    """Keeps what a function says of each section; sections do not change."""
    return cast(Callable[[type[Any]], _Value], cache(function))


@_once_per_section
def type_hints(kind: type[Any]) -> dict[str, Any]:
    """The declared types of a section's fields."""
    return typing.get_type_hints(kind)


@_once_per_section
def leaves(kind: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The leaf fields of a section by name."""
    return {f.name: f for f in dataclasses.fields(kind) if "line" in f.metadata and "section" not in f.metadata}


@_once_per_section
def children(kind: type[Any]) -> dict[str, type[Any]]:
    """The nested sections of a section by name."""
    return {f.name: f.metadata["section"] for f in dataclasses.fields(kind) if "section" in f.metadata}


@dataclass(frozen=True, kw_only=True)
class Section:
    """Base of every section.

    Attributes:
        KEY: the section's dotted place in the tree, for messages.
        READ_BY: the commands in which its keys have an effect, where a key does not say otherwise.
        ONLY_WITH: what its keys have no effect without, where a key does not say otherwise.
    """

    KEY: ClassVar[str] = ""
    READ_BY: ClassVar[tuple[str, ...]] = ()
    ONLY_WITH: ClassVar[tuple[Needs, ...]] = ()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = _without_secrets  # type: ignore[assignment]  # before `dataclass` makes one

    @classmethod
    def key(cls, name: str) -> str:
        """The dotted key of a field of this section."""
        return f"{cls.KEY}.{name}" if cls.KEY else name

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for name, spec in leaves(type(self)).items():
            value = convert(getattr(self, name), hints[name], self.key(name))
            if spec.metadata["path"]:
                value = _expanded(value, spec.metadata["path"], self.key(name))
            object.__setattr__(self, name, value)
            _check_bounds(value, spec.metadata, self.key(name))


def _without_secrets(node: Section) -> str:
    """As a dataclass's own, with `***` for values of keys that look like secrets."""
    shown = {spec.name: getattr(node, spec.name) for spec in dataclasses.fields(node) if spec.repr}
    return f"{type(node).__name__}({', '.join(f'{name}={value!r}' for name, value in masked(shown).items())})"


def _expanded(value: Any, is_path: bool | Callable[[str], bool], key: str) -> Any:
    if isinstance(value, list):
        return [_expanded(item, is_path, f"{key}[{index}]") for index, item in enumerate(value)]
    if not isinstance(value, str) or (callable(is_path) and not is_path(value)):
        return value
    return expanded_text(value, key)


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


@dataclass(frozen=True)
class Leaf:
    """A key of the tree with all that is known of it.

    Attributes:
        key: its dotted key.
        section: the section that it is in.
        metadata: what its `option` was given.
    """

    key: str
    section: type[Section]
    metadata: Mapping[str, Any]

    @property
    def default(self) -> Any:
        """Its default."""
        return getattr(self.section(), self.key.rpartition(".")[2])

    @property
    def read_by(self) -> tuple[str, ...]:
        """The commands in which it has an effect."""
        own: tuple[str, ...] | None = self.metadata["read_by"]
        return self.section.READ_BY if own is None else own

    @property
    def only_with(self) -> tuple[Needs, ...]:
        """What it has no effect without."""
        own = self.metadata["only_with"]
        return self.section.ONLY_WITH if own is None else tuple(own)


def leaves_below(kind: type[Section], prefix: str = "") -> Iterator[Leaf]:
    """Every key of a section and of the sections in it, its own first."""
    for name, spec in leaves(kind).items():
        yield Leaf(prefix + name, kind, spec.metadata)
    for name, child in children(kind).items():
        yield from leaves_below(child, f"{prefix}{name}.")


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
