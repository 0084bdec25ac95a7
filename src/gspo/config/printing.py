"""A configuration as YAML with the line of each field, which loads back to the same configuration."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

import yaml

from gspo.config.fields import Section, to_dict
from gspo.config.schema import Config
from gspo.config.secrets import masked

__all__ = ["render", "shown"]

_WIDTH = 120


def render(config: Config, keys: Collection[str] | None = None, *, flat: bool = False) -> str:
    """The tree as commented YAML, secrets hidden. Loading the text gives an equal configuration but for those.

    Args:
        config: the configuration.
        keys: the dotted keys to print, sections with all that is in them; None: everything.
        flat: a line for each key with its full name, its value and its comment, so that lines can be searched.
    """
    wanted = None if keys is None else frozenset(keys)
    lines = _flat_lines(config, shown(config), wanted) if flat else _lines(config, shown(config), wanted)
    return "".join(f"{line}\n" for line in lines).lstrip("\n")


def shown(config: Config) -> dict[str, Any]:
    """The tree as it is printed, logged and compared with a printed one: plain values, secrets hidden."""
    tree: dict[str, Any] = masked(to_dict(config))
    return tree


def _lines(
    node: Section, tree: dict[str, Any], wanted: frozenset[str] | None, prefix: str = "", indent: str = ""
) -> Iterator[str]:
    for spec in dataclasses.fields(node):
        if "line" not in spec.metadata:
            continue
        name, comment = spec.name, f"# {spec.metadata['line']}"
        key = prefix + name
        within = None if wanted is None or key in wanted else wanted
        if "section" in spec.metadata:
            inner = list(_lines(getattr(node, name), tree[name], within, f"{key}.", f"{indent}  "))
            if inner:
                if not indent:
                    yield ""
                yield f"{indent}{name}:  {comment}"
                yield from inner
            continue
        if within is not None:
            continue
        entry = f"{indent}{name}: {_scalar(_escaped(tree[name]))}"
        if len(entry) + len(comment) + 2 <= _WIDTH:
            yield f"{entry}  {comment}"
        else:
            yield from textwrap.wrap(
                comment, _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}# ", break_long_words=False
            )
            yield entry


def _flat_lines(node: Section, tree: dict[str, Any], wanted: frozenset[str] | None, prefix: str = "") -> Iterator[str]:
    for spec in dataclasses.fields(node):
        if "line" not in spec.metadata:
            continue
        key = prefix + spec.name
        within = None if wanted is None or key in wanted else wanted
        if "section" in spec.metadata:
            yield from _flat_lines(getattr(node, spec.name), tree[spec.name], within, f"{key}.")
        elif within is None:
            yield f"{key}: {_scalar(_escaped(tree[spec.name]))}  # {spec.metadata['line']}"


class _Dumper(yaml.SafeDumper):
    """Writes every text on one line, so that OmegaConf reads it as the same text."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # OmegaConf takes 1e5 for a number, where YAML 1.1, and so PyYAML, takes it for text.
    style = '"' if not text.isprintable() or _is_number(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _scalar(value: Any) -> str:
    """One value on one line."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True
    )
    return text.removesuffix("...\n").strip()


def _escaped(value: Any) -> Any:
    """The value with `${` written so that OmegaConf reads it as text."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", r"\1\1\\${", value)
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value
