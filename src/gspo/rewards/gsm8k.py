"""GSM8K's answers: numbers, compared as numbers."""

from __future__ import annotations

import re
from decimal import Decimal

__all__ = ["final_number", "score_gsm8k"]

# A minus counts as a sign where no number or letter comes before it: "10-3" ends in 3, "is -3" in -3.
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w)])-)?(?:\$(?P<sign_inside>-)?)?(?P<digits>\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?P<decimals>\.\d+)?"
)
_MARKED = re.compile(r"####\s*" + _NUMBER.pattern)


def score_gsm8k(solution_str: str, ground_truth: str, strict: bool = False) -> dict[str, float | str]:
    """1 where the response's number equals the ground truth's, else 0.

    Args:
        solution_str: the response.
        ground_truth: a number as text; one that is none is abstained from.
        strict: only the number after the last #### counts. Else, where there is none, the last number of the response
            does: a model that is right but not yet in the format differs from one that is wrong. (verl's scorer
            calls the two "strict", its default, and "flexible".)
    """
    truth = final_number(f"#### {ground_truth.strip()}", strict=True)
    if truth is None:
        return {"abstained": f"the ground truth {ground_truth!r} is not a number"}
    answer = final_number(solution_str, strict)
    correct = float(answer == truth)
    score: dict[str, float | str] = {"score": correct, "acc": correct}
    return score if answer is None else {**score, "pred": f"{answer.normalize():f}"}


def final_number(text: str, strict: bool = False) -> Decimal | None:
    """The number after the last #### that one follows; without any, and not strict, the last number."""
    matches = list(_MARKED.finditer(text))
    if not matches and not strict:
        matches = list(_NUMBER.finditer(text))
    if not matches:
        return None
    last = matches[-1]
    sign = "-" if last["sign"] or last["sign_inside"] else ""
    return Decimal(sign + last["digits"].replace(",", "") + (last["decimals"] or ""))
