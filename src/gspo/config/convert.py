"""Brings a value from YAML, a command line or Python to the type that a field declares, or says why it cannot.

Understood: bool, int, float, str, list[...], dict[str, Any], sections in lists, and `X | None`. Numbers may come as
text, because YAML 1.1 reads `1e-6` as a string; a whole float is an int (`1e3`); a lone text is a list of one.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any

from gspo.config.secrets import masked
from gspo.config.texts import text_problem

__all__ = ["ConfigError", "convert", "show", "type_name"]

_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class ConfigError(ValueError):
    """A setting that cannot be used; the message names the key and the fix."""

    def __init__(self, message: str, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


def show(value: Any) -> str:
    """The value as one would write it in YAML, secrets hidden."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) and value else repr(masked(value))


def type_name(hint: Any) -> str:
    """A type as the documentation writes it: `list of str`, `int or null`."""
    if hint is types.NoneType:
        return "null"
    if hint is Any:
        return "any"
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is types.UnionType:
        return " or ".join(map(type_name, arguments))
    if typing.get_origin(hint) is list:
        return f"list of {type_name(arguments[0])}"
    if typing.get_origin(hint) is dict:
        return "mapping"
    if dataclasses.is_dataclass(hint):
        return "{" + ", ".join(field.name for field in dataclasses.fields(hint)) + "}"
    return str(hint.__name__)


def convert(value: Any, hint: Any, key: str) -> Any:
    """The value as the declared type.

    Raises:
        ConfigError: it is of another type, or holds a text that cannot be encoded; names key, value and what is
            expected.
    """
    if problem := text_problem(value, key, nul=False):
        raise ConfigError(problem, key)
    return _as_declared(value, hint, key)


def _as_declared(value: Any, hint: Any, key: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        rest = [argument for argument in arguments if argument is not types.NoneType]
        if value is None or (isinstance(value, str) and value.lower() in ("null", "none") and str not in rest):
            return None
        assert len(rest) == 1, "a field is of one type or null"
        return _as_declared(value, rest[0], key)
    if hint is Any:
        return value
    if origin is list:
        return _convert_list(value, hint, arguments[0], key)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise _wrong(key, value, hint)
        return dict(value)
    if dataclasses.is_dataclass(hint):
        return _convert_section(value, hint, key)
    converted = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}[hint](value)
    if converted is None:
        raise _wrong(key, value, hint)
    return converted


def _wrong(key: str, value: Any, hint: Any) -> ConfigError:
    return ConfigError(f"{key}={show(value)} is of type {type(value).__name__}: expected {type_name(hint)}", key)


def _to_bool(value: Any) -> bool | None:
    if isinstance(value, str):
        return _TRUTH.get(value.lower())
    return value if isinstance(value, bool) else None


def _to_float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):  # no number, or an integer beyond the largest float
        return None


def _to_int(value: Any) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    number = _to_float(value)
    return int(number) if number is not None and math.isfinite(number) and number == int(number) else None


def _to_str(value: Any) -> str | None:
    # A name or a path of digits only reaches us as a number.
    return str(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None


def _convert_list(value: Any, hint: Any, item: Any, key: str) -> list[Any]:
    if isinstance(value, str) or (isinstance(value, Mapping) and dataclasses.is_dataclass(item)):
        value = [value]
    if not isinstance(value, (list, tuple)):
        raise _wrong(key, value, hint)
    return [_as_declared(element, item, f"{key}[{index}]") for index, element in enumerate(value)]


def _convert_section(value: Any, hint: Any, key: str) -> Any:
    """A mapping as a section in a list; a lone text is its `name`."""
    if isinstance(value, hint):
        return value
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, Mapping):
        raise _wrong(key, value, hint)
    names = [field.name for field in dataclasses.fields(hint)]
    if unknown := [name for name in value if name not in names]:
        raise ConfigError(f"{key}: unknown entry {unknown[0]}: expected {', '.join(names)}", key)
    try:
        return hint(**value)
    except TypeError:  # a required entry is missing
        raise ConfigError(f"{key}: an entry needs a name, as in {{name: gsm8k, weight: 1.0}}", key) from None
