"""Whether a response has the form that is asked for. Runs in the scoring processes: a pattern can take for ever."""

from __future__ import annotations

import re

__all__ = ["THINK_ANSWER", "score_format"]

THINK_ANSWER = r"<think>.*?</think>\s*<answer>.*?</answer>"


def score_format(solution_str: str, pattern: str, opened: bool = False) -> float:
    """1 where the whole response, without the space around it, matches (`.` takes new lines too), else 0.

    Args:
        solution_str: the response.
        pattern: the form that is asked for.
        opened: the prompt ends in <think>: the response may match with it in front, too.
    """
    text = solution_str.strip()
    texts = [text, f"<think>{solution_str.rstrip()}"] if opened else [text]
    return float(any(re.fullmatch(pattern, text, re.DOTALL) is not None for text in texts))
