"""Mathematical answers, compared by math-verify where their text does not decide. Runs in the scoring processes, so it
loads no torch.

math-verify's own time limits are signals that work in a main thread only and are an error elsewhere; they are off.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

import sympy  # type: ignore[import-untyped]
from math_verify import LatexExtractionConfig, parse, verify

from gspo.rewards.answers import after_thinking, first_value, given_answers, last_value, marked
from gspo.rewards.equality import is_words, same_answer
from gspo.rewards.limits import TooLarge, check_formula_size, check_text_size, time_limit
from gspo.rewards.notation import plain
from gspo.rewards.numerals import read_number, spelled
from gspo.rewards.truth import math_truth
from gspo.rewards.units import without_unit

__all__ = ["score_math"]

logging.getLogger("math_verify").setLevel(logging.CRITICAL)  # it warns that its time limits are off
# Words of a sentence, which are no commands and not within \\text{...}.
_PROSE = re.compile(r"[A-Za-z]{2}|[一-鿿]{2}")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_NO_PROSE = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+")
_BOX = (LatexExtractionConfig(boxed_match_priority=0),)


def score_math(solution_str: str, ground_truth: str) -> dict[str, Any]:
    """1 where the response's answer equals the ground truth, else 0; `pred` is the answer.

    The answer is what the last box holds, behind </think> where there are thoughts; or the last <answer>; where both
    are, both have to be right. Without them it follows the last "the answer is" or 答案, else it is the last formula or
    number. A response without an answer, with several ("17 or 18"), or with one that costs too much to compare, gets
    0. A ground truth that cannot be read is abstained from.
    """
    gold = math_truth(ground_truth)
    if gold is None:
        return {"abstained": f"the ground truth {ground_truth!r} is not an answer that can be read"}
    answers = _candidates(after_thinking(solution_str))
    try:
        for texts in answers:
            for text in texts:
                check_text_size(text)
        spellings = [[plain(text) for text in texts] for texts in answers]
        _parsed(gold)  # loads the parser's tables and reads the ground truth before the time of the answer begins
        with time_limit():
            correct = bool(spellings) and all(any(same_answer(gold, one, _algebra) for one in of) for of in spellings)
            vote = _vote([gold] if correct else spellings[0]) if spellings else None
    except TooLarge:
        correct, vote = False, None
    score = {"score": float(correct), "acc": float(correct)}
    return {**score, "pred": vote} if vote else score


def _candidates(said: str) -> list[list[str]]:
    """The answers that a response gives, each with its readings, of which one has to be right."""
    given = given_answers(said)
    if given:
        return [_readings(text) for text in given]
    mark = marked(said)
    if mark is not None:
        return [_readings(mark)]
    last = last_value(said)
    return [] if last is None else [[last]]


def _readings(text: str) -> list[str]:
    """An answer as a whole; where it is a sentence, also what its mark leads to, or its first value."""
    mark = marked(_TEXT.sub(r"\1", text))
    inner = text if mark is None else mark
    spelling = plain(inner[:1000])
    is_sentence = _PROSE.search(_NO_PROSE.sub(" ", inner)) and not (read_number(spelling) or without_unit(spelling)[1])
    value = first_value(inner) if is_sentence else None
    return [*dict.fromkeys(reading for reading in (text, inner, value) if reading is not None)]


def _algebra(gold: str, answer: str) -> bool:
    check_formula_size(answer)
    one, other = _parsed(gold), _parsed(answer)
    return one is not None and other is not None and bool(verify([one], [other], timeout_seconds=None))


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """A formula as sympy's object; None where it cannot be read, and of words, whose letters are no factors."""
    if is_words(text):
        return None
    found = parse(f"\\boxed{{{text}}}", _BOX, fallback_mode="no_fallback", parsing_timeout=None)
    if not found or found[0] in (sympy.nan, sympy.zoo):
        return None
    return found[0]


def _vote(readings: list[str]) -> str | None:
    """The answer as text, one text for each value as far as can be seen: its vote in a majority."""
    text = readings[-1]
    number = read_number(text) or read_number(without_unit(text)[0])
    if number is not None:
        return spelled(number)
    check_formula_size(text)
    parsed = _parsed(text)
    return str(parsed) if parsed is not None else text or None


# A first comparison loads a second's worth of sympy, which is no response's fault.
_algebra("x^2+2x+1", "(x+1)^2")
