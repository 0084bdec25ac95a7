"""Errors of rewards, and how an exception of a user's function is told on one line. Loads no torch."""

from __future__ import annotations

import traceback

__all__ = ["RewardError", "describe"]

# Of an exception's text: an error is one line of a terminal, and a file's content or a response is not part of it.
_LONGEST = 400


class RewardError(ValueError):
    """A reward that is set up wrongly, or that failed where the run is to stop; the message says what to do."""


def describe(error: BaseException, file: str | None = None) -> str:
    """An exception on one line: its type, its text, and the line of code that it came from.

    Args:
        error: whatever was raised; one whose text cannot be made is described without it.
        file: the user's file, whose innermost line is named; without one in it, that where the exception was raised.
    """
    try:
        text = " ".join(str(error).split())
    except BaseException as second:  # the text of a user's exception is code of the user's
        text = f"its text cannot be read, {type(second).__name__}"
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]}..."
    # Not traceback.extract_tb, which reads the source, and would fail where the memory is used up.
    places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    places = [place for place in places if place[0] == file] or places
    where = f" ({places[-1][0].rpartition('/')[2]}, line {places[-1][1]})" if places else ""
    return f"{type(error).__name__}{': ' * bool(text)}{text}{where}"
