"""What a value may hold so that it can be encoded, written and read again: texts of whole characters, in few levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["MOST_LEVELS", "first_line", "text_problem"]

# Far above what data and settings need, far below where recursive readers and writers of JSON and YAML give up.
MOST_LEVELS = 100


def text_problem(value: Any, name: str, *, nul: bool = True) -> str | None:
    """What is wrong with the texts in a value, the keys of its mappings included; None where nothing is.

    Args:
        value: any value; texts, mappings, lists and tuples are looked into.
        name: what messages call it; a text within it is named by its place, as in `prompt[0].content`.
        nul: refuse NUL too, which many readers take for a text's end, so that it mostly is a sign of damaged data.

    Returns:
        the place, the problem and what to do.
    """
    waiting: list[tuple[Any, str, int]] = [(value, name, 0)]  # no recursion: a value may have any depth, or hold itself
    while waiting:
        part, place, level = waiting.pop()
        if isinstance(part, str):
            if problem := _problem(part, nul):
                return f"{place} {problem}"
        elif isinstance(part, (Mapping, list, tuple)):
            if level == MOST_LEVELS:
                return f"{name} is nested more than {MOST_LEVELS} levels deep: write it flatter"
            waiting += [(inner, where, level + 1) for inner, where in reversed(_parts(part, place))]
    return None


def _parts(value: Any, place: str) -> list[tuple[Any, str]]:
    if not isinstance(value, Mapping):
        return [(item, f"{place}[{index}]") for index, item in enumerate(value)]
    entries = [(item, f"{place}.{_plain(key)}") for key, item in value.items()]
    return [*((key, f"a key of {place}") for key in value), *entries]


def _problem(text: str, nul: bool) -> str | None:
    if nul and "\0" in text:
        return "holds the character NUL (U+0000): take it out"
    if text.isascii():
        return None
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"holds half of a surrogate pair, {_plain(text[error.start])}, at character {error.start}, which cannot be "
            "encoded: write the whole character, or take it out"
        )
    return None


def _plain(text: Any) -> str:
    """A text that can be printed, whatever it holds."""
    return str(text).encode(errors="backslashreplace").decode()


def first_line(error: BaseException) -> str:
    """What an error says, in one line; its type where it says nothing."""
    return str(error).strip().splitlines()[0].rstrip(" :.") if str(error).strip() else type(error).__name__
