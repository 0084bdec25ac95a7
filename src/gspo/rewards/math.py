"""Mathematical answers, compared by math-verify. Runs in the scoring processes, so it loads no torch.

math-verify's own time limits are signals that work in a main thread only and cannot stop a computation inside C; they
are off, and the process is killed instead.
"""

from __future__ import annotations

import logging
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

__all__ = ["score_math"]

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time limits are off
# A boxed answer first, whatever else is written; then the last formula, then the last number.
_ANSWER = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


def score_math(solution_str: str, ground_truth: str) -> dict[str, Any]:
    """1 where the response's answer equals the ground truth, else 0; the answer is the boxed or the last expression.

    A response in which no answer is found gets 0. A ground truth that does not parse is abstained from.
    """
    gold = _parse_gold(ground_truth)
    if not gold:
        return {"abstained": f"the ground truth {ground_truth!r} is not an expression that math-verify can read"}
    answer = parse(solution_str, _ANSWER, fallback_mode="no_fallback", parsing_timeout=None)
    correct = bool(answer) and verify(gold, answer, timeout_seconds=None, raise_on_error=True)
    score = {"score": float(correct), "acc": float(correct)}
    return {**score, "pred": str(answer[0])} if answer else score


def _parse_gold(text: str) -> list[Any]:
    """The ground truth is a bare answer as a rule (2\\sqrt{3}), which reads wrongly unless marked as a formula."""
    marked = "\\boxed" in text or "$" in text
    for candidate in [text] if marked else [f"\\boxed{{{text}}}", f"${text}$"]:
        gold: list[Any] = parse(candidate, _ANSWER, fallback_mode="no_fallback", parsing_timeout=None)
        if gold:
            return gold
    return []
