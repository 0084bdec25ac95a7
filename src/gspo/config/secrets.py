"""Values of keys that look like secrets: used as they are, and shown, written and logged as `***`.

The schema has no such key: they are the user's own, in a free-form mapping (`custom_reward_function.reward_kwargs`,
say), or in a key that is misspelt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["hidden_keys", "is_secret", "masked", "masked_text"]

_MASK = "***"

_SECRET = re.compile(
    r".+[_-]key|.*(api|access|private|auth)[_-]?keys?|.*token.*|.*passw(or)?d.*|.*passphrase.*|.*secret.*|.*credential.*"
)
# What names a column or a token, or counts tokens.
_COLUMNS = (
    "prompt|answer|teacher|tools?|image|video|audio|response|reward|reward_fn|rm|label|text|target|solution|question|"
    "messages?|column|content|source|data|data_source|ground_truth|truth|input|output|id|index|sort|group|primary"
)
_SPECIAL = "bos|eos|pad|unk|sep|cls|mask|image|video|audio|start|end|stop|think|special"
_COUNTED = "max|min|num|n|new|total|stop|special|bad|added|extra|prompt|response|completion|per"
_HARMLESS = re.compile(
    rf"({_COLUMNS})_key|({_SPECIAL})_token|(.*_)?({_COUNTED})_([a-z]+_)*tokens?|tokens|.*tokeni[sz].*"
    r"|.*token_(ids?|index|len|length|level|limit|budget|count|type|mean)(_.*)?|(seq|token)[_-]mean.*"
)
# An entry of a mapping, or an override; a value ends where its entry does.
_ENTRY = re.compile(
    r"""(?P<key>[\w.-]+)(?P<sign>["']?\s*[:=]\s*)(?P<value>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[^,{}\[\]]+)"""
)
_NUMBER = re.compile(r"[-+]?[\d._]+(e[-+]?\d+)?", re.IGNORECASE)


def is_secret(key: str, value: Any) -> bool:
    """Whether a key, dotted or not, looks like one whose value must not be shown.

    A number is no token (`max_tokens`, `eos_token_id`), and what is not set is no secret.
    """
    name = key.rpartition(".")[2].lower()
    if value is None or isinstance(value, bool) or value == "":
        return False
    if "token" in name and (isinstance(value, (int, float)) or _NUMBER.fullmatch(str(value))):
        return False
    return bool(_SECRET.fullmatch(name)) and not _HARMLESS.fullmatch(name)


def masked(value: Any) -> Any:
    """The value with `***` for every secret in its mappings, at any depth; the value itself is not changed."""
    if isinstance(value, Mapping):
        return {key: _MASK if is_secret(str(key), part) else masked(part) for key, part in value.items()}
    return [masked(item) for item in value] if isinstance(value, list) else value


def masked_text(text: str) -> str:
    """The same for what a user wrote: an override `key=value`, one that sets a mapping, or an option `--key=value`."""
    key, equals, value = text.partition("=")
    if equals and is_secret(key, value.strip()):
        return f"{key}={_MASK}"
    return _ENTRY.sub(_masked_entry, text)


def _masked_entry(found: re.Match[str]) -> str:
    is_hidden = is_secret(found["key"], found["value"].strip("\"' "))
    return f"{found['key']}{found['sign']}{_MASK}" if is_hidden else found[0]


def hidden_keys(tree: Any, prefix: str = "") -> Iterator[str]:
    """The keys in a tree of mappings and lists whose secrets are hidden: what was read from a run's `config.yaml`."""
    parts: list[tuple[str, Any]] = []
    if isinstance(tree, Mapping):
        parts = [(f"{prefix}.{key}" if prefix else str(key), part) for key, part in tree.items()]
    elif isinstance(tree, list):
        parts = [(f"{prefix}[{index}]", part) for index, part in enumerate(tree)]
    for key, part in parts:
        if part == _MASK and is_secret(key, part):
            yield key
        else:
            yield from hidden_keys(part, key)
