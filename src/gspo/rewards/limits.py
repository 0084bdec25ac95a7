"""What an answer may cost: limits on its text, checked before anything is computed, and on the time of computing.

A response whose answer is beyond them (a tower of powers, thousands of brackets) is wrong: no ground truth is like it.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["TooLarge", "check_formula_size", "check_text_size", "time_limit"]

# Signs of one answer. The longest ground truths of MATH have about 160.
_MAX_LENGTH = 1000
# Brackets within brackets: sympy and its parser call themselves for each.
_MAX_NESTING = 24
# Digits of one number.
_MAX_DIGITS = 400
# A number's exponent, and what a factorial or a binomial coefficient is taken of: results of some thousand digits.
_MAX_EXPONENT = 10_000
_MAX_FACTORIAL = 1_000
# Seconds of the processor's time to compare two answers: a sound one takes some hundredths.
_MAX_SECONDS = 0.5
# A handler that a library catches and drops is called again after this time.
_AGAIN = 0.05

_GROUP = re.compile(r"\s*(?:\{(?P<braced>[^{}]*)\}|\((?P<bracketed>[^()]*)\)|(?P<bare>[+-]?\d+|\\?[A-Za-z]+))")
_POWER_OF_DIGITS = re.compile(r"(\d+)\s*\^\s*[{(]?\s*(\d+)")
_TAKEN_OF = re.compile(r"(\d+)\s*[})]?\s*!|\\d?t?binom\s*\{\s*(\d+)|\\d?t?binom\s*\{[^{}]*\}\s*\{\s*(\d+)")


class TooLarge(Exception):
    """An answer that costs more to compare than any sound one."""


class _OutOfTime(BaseException):
    """Raised within a computation. No Exception, which the computation might catch."""


def check_text_size(text: str) -> None:
    """Checks what can be seen without reading: length, brackets and numbers.

    Raises:
        TooLarge: it is beyond a limit.
    """
    if len(text) > _MAX_LENGTH:
        raise TooLarge(f"it has {len(text)} signs, more than {_MAX_LENGTH}")
    depth = 0
    for sign in text:
        depth += (sign in "([{") - (sign in ")]}")
        if depth > _MAX_NESTING:
            raise TooLarge(f"it has more than {_MAX_NESTING} brackets within one another")
    if re.search(rf"\d{{{_MAX_DIGITS + 1}}}", text):
        raise TooLarge(f"it has a number of more than {_MAX_DIGITS} digits")


def check_formula_size(text: str) -> None:
    """Checks the powers and factorials of a formula (LaTeX, or Python's with `**`), by its text.

    Raises:
        TooLarge: its value would be beyond a limit.
    """
    check_text_size(text)
    text = text.replace("**", "^").replace(r"\!", "")  # \\! is a narrow space
    if re.search(r"!\s*[})]?\s*!|[^\d\sA-Za-z})]\s*!(?!=)", text) or re.search(r"\^[^!]{0,40}[})]\s*!(?!=)", text):
        raise TooLarge("it has a factorial of a power or of a factorial")
    for found in _TAKEN_OF.finditer(text):
        if any(int(number) > _MAX_FACTORIAL for number in found.groups() if number):
            raise TooLarge(f"it has a factorial or a binomial coefficient of a number beyond {_MAX_FACTORIAL}")
    highest, growth = 1, 1
    for place in (found.start() for found in re.finditer(r"\^", text)):
        exponent = _exponent(text, place + 1)
        if text[:place].rstrip().endswith((")", "}", "]")):
            growth *= exponent  # a power of what may hold powers
        else:
            highest = max(highest, exponent)
        if highest * growth > _MAX_EXPONENT:
            raise TooLarge(f"it has a power beyond {_MAX_EXPONENT}")


def _exponent(text: str, start: int) -> int:
    """A bound on the exponent that begins at `start`: the product of its numbers; 1 without one.

    Raises:
        TooLarge: it is itself a power beyond the limit.
    """
    group = text[start:].lstrip()
    if group[:1] in ("{", "("):
        inner = group[1 : _closing(group)]
    else:
        found = _GROUP.match(group)
        inner = found[0] if found else ""
        after = group[len(inner) :].lstrip()
        if after.startswith("^") and any(sign.isdigit() for sign in inner):
            raise TooLarge("it has a tower of powers")
    bound = 1
    for base, power in _POWER_OF_DIGITS.findall(inner):
        if len(base) > 5 or len(power) > 5 or int(power) * math.log10(max(int(base), 1)) > math.log10(_MAX_EXPONENT):
            raise TooLarge("it has a tower of powers")
        bound *= int(base) ** int(power)
    if inner.count("^") > len(_POWER_OF_DIGITS.findall(inner)) and re.search(r"[})]\s*\^", inner):
        raise TooLarge("it has a tower of powers")
    rest = _POWER_OF_DIGITS.sub("", inner)
    for number in re.findall(r"\d+", rest):
        bound *= max(int(number[:9]), 1)
    return bound


def _closing(group: str) -> int:
    """Where the bracket that a text begins with is closed; its end where it is not."""
    depth = 0
    for place, sign in enumerate(group):
        depth += (sign in "({[") - (sign in ")}]")
        if depth == 0:
            return place
    return len(group)


@contextmanager
def time_limit(seconds: float = _MAX_SECONDS) -> Iterator[None]:
    """Ends a computation that takes longer than this, in seconds of the processor's time, which load does not change.

    Python's signals reach the main thread only, where the processes that score work; elsewhere there is no limit. A
    single long operation within C is not ended: what such can be is refused by its text.

    Raises:
        TooLarge: the time was up, or the computation ran out of memory or of depth.
    """

    def end(_signal: int, _frame: FrameType | None) -> None:
        raise _OutOfTime

    try:
        before = signal.signal(signal.SIGVTALRM, end)
    except ValueError:  # not the main thread
        before = None
    try:
        if before is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, seconds, _AGAIN)
        yield
    except _OutOfTime:
        raise TooLarge(f"comparing it took more than {seconds:g} s") from None
    except (MemoryError, RecursionError, OverflowError) as error:
        raise TooLarge(f"comparing it ended in {type(error).__name__}") from None
    finally:
        if before is not None:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.signal(signal.SIGVTALRM, before)
