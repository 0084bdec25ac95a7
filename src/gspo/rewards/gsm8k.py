"""GSM8K's answers: numbers, compared as numbers."""

from __future__ import annotations

from gspo.rewards.answers import after_thinking, first_value, given_answers, heading, last_value, marked
from gspo.rewards.equality import same_numbers
from gspo.rewards.limits import TooLarge, check_text_size
from gspo.rewards.notation import plain
from gspo.rewards.numerals import Numeral, read_number, spelled
from gspo.rewards.truth import gsm8k_truth
from gspo.rewards.units import without_unit

__all__ = ["final_numbers", "score_gsm8k"]


def score_gsm8k(solution_str: str, ground_truth: str, strict: bool = False) -> dict[str, float | str]:
    """1 where the response's number equals the ground truth's, else 0.

    Args:
        solution_str: the response.
        ground_truth: a number as text; one that is none is abstained from.
        strict: only the number after the last #### counts. Else a box or <answer> tags do too, which have to agree
            with it; then "the answer is" or 答案; then the last number: a model that is right but not yet in the
            format differs from one that is wrong. (verl's scorer calls the two "strict", its default, and "flexible".)
    """
    truth = gsm8k_truth(ground_truth)
    if truth is None:
        return {"abstained": f"the ground truth {ground_truth!r} is not a number"}
    numbers = final_numbers(solution_str, strict)
    correct = float(bool(numbers) and all(number is not None and same_numbers(truth, number) for number in numbers))
    score: dict[str, float | str] = {"score": correct, "acc": correct}
    last = numbers[-1] if numbers else None
    return score if last is None else {**score, "pred": spelled(last)}


def final_numbers(text: str, strict: bool = False) -> list[Numeral | None]:
    """The number of each answer that a response gives; None for an answer that is not one number ("17 or 18")."""
    said = after_thinking(text)
    behind = heading(said)
    if strict:
        return [] if behind is None else [_number(behind)]
    given = given_answers(said, headings=True)
    if not given:
        mark = marked(said)
        last = last_value(said) if mark is None else mark
        given = [] if last is None else [last]
    return [_number(answer) for answer in given]


def _number(text: str) -> Numeral | None:
    """The number of an answer: the whole of it, or the first in it; behind an equals sign, where there is one."""
    *before, text = text.split("=")
    try:
        check_text_size(text)
    except TooLarge:
        return None
    number = _read(text)
    if number is None and (value := first_value(text)) is not None:
        number = _read(value)
    others = [_read(side) for side in before if len(side) < 100]
    return None if any(other and other.value != (number and number.value) for other in others) else number


def _read(text: str) -> Numeral | None:
    answer = plain(text)
    return read_number(answer) or read_number(without_unit(answer)[0])
