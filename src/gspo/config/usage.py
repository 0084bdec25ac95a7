"""Which keys a command reads, and which of those that the user has set do nothing in it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, reduce

from gspo.config.fields import COMMANDS, Leaf, Needs, leaves_below
from gspo.config.schema import Config

__all__ = ["is_read", "key_facts", "keys_read", "keys_that_turn_on", "unused"]

_NOT_READ = {
    "train": "gspo train does not use {it}",
    "sft": "gspo sft does not use {it}; one training step is one optimizer step on data.train_batch_size prompts",
    "eval": "no effect on an evaluation: take {it} out",
}
assert tuple(_NOT_READ) == COMMANDS


@cache
def key_facts() -> dict[str, Leaf]:
    """Every key of the schema with all that is known of it."""
    return {leaf.key: leaf for leaf in leaves_below(Config)}


def is_read(key: str, command: str) -> bool:
    """Whether a key of the schema has an effect in a command; false for one that is no key of it."""
    leaf = key_facts().get(key)
    return leaf is not None and command in leaf.read_by


def keys_read(command: str) -> list[str]:
    """The keys that a command reads; a section of which it reads all is named alone, with a dot at its end."""
    found: dict[str, None] = {}
    for key in key_facts():
        if is_read(key, command):
            whole = [section for section in _sections_of(key) if _reads_all(section, command)]
            found[whole[0] if whole else key] = None
    return list(found)


def _sections_of(key: str) -> list[str]:
    """The sections that a key is in, each with a dot at its end, the largest first."""
    parts = key.split(".")
    return [".".join(parts[:length]) + "." for length in range(1, len(parts))]


def _reads_all(section: str, command: str) -> bool:
    return all(is_read(key, command) for key in key_facts() if key.startswith(section))


def keys_that_turn_on(what: Needs) -> list[str]:
    """The keys that ask for something when they are set, in the order of the schema."""
    return [key for key, leaf in key_facts().items() if leaf.metadata["turns_on"] is what]


def unused(config: Config, command: str) -> Iterator[str]:
    """What is to be said of the user's keys that do nothing in a command: one line for each reason.

    A key at its default asks for nothing, and nothing is said of it: whole configurations have them all.

    Args:
        config: resolved, with the keys that the user has set.
        command: one of `COMMANDS`.
    """
    keys: dict[str, list[str]] = {}
    for key in sorted(config.user_set & key_facts().keys()):
        reason = _why_unused(key_facts()[key], config, command)
        if reason is not None and reduce(getattr, key.split("."), config) != key_facts()[key].default:
            keys.setdefault(reason, []).append(key)
    for reason, found in keys.items():
        yield f"{', '.join(found)}: {reason.format(it='it' if len(found) == 1 else 'them')}"


def _why_unused(leaf: Leaf, config: Config, command: str) -> str | None:
    if command not in leaf.read_by:
        return _NOT_READ[command]
    return next((needs.otherwise for needs in leaf.only_with if not needs.holds(config)), None)
