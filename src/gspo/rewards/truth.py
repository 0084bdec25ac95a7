"""Whether a ground truth can be read, by its text alone: known before a run scores anything."""

from __future__ import annotations

import re

from gspo.rewards.answers import last_box
from gspo.rewards.limits import TooLarge, check_formula_size
from gspo.rewards.notation import balanced, plain
from gspo.rewards.numerals import Numeral, read_number
from gspo.rewards.units import without_unit

__all__ = ["gsm8k_truth", "math_truth"]


def math_truth(text: str) -> str | None:
    """The answer of a mathematical ground truth in the spelling of `plain`; None where it has none that can be read.

    The ground truth is a bare answer as a rule (2\\sqrt{3}); of a worked solution the last box counts.
    """
    box = last_box(text) if "\\box" in text else None
    inner = text if box is None else box[1]
    try:
        check_formula_size(inner)
    except TooLarge:
        return None
    if not balanced(inner):
        return None
    answer = plain(inner)
    return answer if re.search(r"\w|\\infty|\\emptyset", answer) else None


def gsm8k_truth(text: str) -> Numeral | None:
    """The number that a ground truth of GSM8K is, or that follows its ####; None where it is none."""
    answer = plain(text.rpartition("####")[2].strip()[:500])
    return read_number(answer) or read_number(without_unit(answer)[0])
