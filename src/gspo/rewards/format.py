"""Whether a response has the form that is asked for. Runs in the scoring processes: a pattern can take for ever."""

from __future__ import annotations

import re

__all__ = ["THINK_ANSWER", "score_format"]

THINK_ANSWER = r"<think>.*?</think>\s*<answer>.*?</answer>"


def score_format(solution_str: str, pattern: str) -> float:
    """1 where the whole response, without the space around it, matches (`.` takes new lines too), else 0."""
    return float(re.fullmatch(pattern, solution_str.strip(), re.DOTALL) is not None)
