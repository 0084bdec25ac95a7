"""Whether two mathematical answers are the same: by their text, as numbers, part by part, and at last by algebra."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from fractions import Fraction

from gspo.rewards.notation import split_list, text_key
from gspo.rewards.numerals import Numeral, read_number
from gspo.rewards.units import same_unit, without_unit

__all__ = ["is_words", "same_answer", "same_numbers"]

# Decides of two formulas whether they are equal.
Algebra = Callable[[str, str], bool]

# A decimal counts as equal to a number that has no end (1/3) where both agree to this.
_ROUNDING = Fraction(1, 2 * 10**6)
_RELATIVE = Fraction(1, 10**5)

_WORDS = re.compile(r"[A-Za-z\s().,'’:!?-]*[一-鿿A-Za-z]{2}[\w\s().,'’:!?一-鿿-]*")
_TEXT = re.compile(r"\\text\{([^{}]*)\}")
_EQUALS = re.compile(r"(?<![<>!\\:])=(?!=)|\\equiv(?![A-Za-z])|:=")
_APPROXIMATE = re.compile(r"\\(?:approx|simeq|sim)(?![A-Za-z])")
_BELONGS = re.compile(r"^[^\\]{1,12}\\in(?![A-Za-z])\s*")
# The left side of an assignment: a name such as x, x_1, f(x), \angle ABC or \text{Area}.
_NAME = re.compile(
    r"\s*(?:\\(?:angle|triangle|text\{[^{}]*\}|alpha|beta|gamma|delta|theta|lambda|mu|sigma|rho|phi|varphi|omega)"
    r"(?![A-Za-z])\s*)?[A-Za-z]*(?:_\{?\w+\}?)?(?:\([A-Za-z, ]+\)|')?(?:\s+[A-Za-z]+)*\s*"
)
_CHOICE = re.compile(r"\s*(?:\\text\{)?\s*(?:\(([A-J])\)|([A-J])[.):])\s*\}?.*", re.DOTALL)
_BARE_CHOICE = re.compile(r"\s*(?:\\text\{)?\s*\(?([A-J])\)?\.?\s*\}?\s*")
_BASED = re.compile(r"([\dA-F]+)_\{?(\d+)\}?")
_LETTER = re.compile(r"[A-Za-z]")
_UNION = re.compile(r"\\cup(?![A-Za-z])")
_OPEN, _CLOSE = ("(", "[", r"\{"), (")", "]", r"\}")


def same_answer(gold: str, answer: str, algebra: Algebra) -> bool:
    """Whether a response's answer is the ground truth.

    Args:
        gold: the ground truth, in the spelling of `plain`.
        answer: the response's, in that spelling too.
        algebra: decides of formulas that are neither numbers nor made of parts.
    """
    if text_key(gold) == text_key(answer):
        return True
    if not answer or not gold:
        return False
    return _same_lists(gold, answer, algebra)


def is_words(text: str) -> bool:
    """Whether an answer is words, which are compared by their letters: `\\text{east}`, `Monday`."""
    inner = _TEXT.sub(r"\1", text)
    if inner != text and not re.search(r"\\|[\d=+*/^<>]", inner) and re.search(r"[^\W\d_]", inner):
        return True
    return bool(_WORDS.fullmatch(text) and re.search(r"[A-Za-z]{4}|[一-鿿]", text) and not re.search(r"\d", text))


def _same_lists(gold: str, answer: str, algebra: Algebra) -> bool:
    """Members in any order, as many as there are: more than one answer to a question with one is a hedge."""
    golds, answers = _members(gold), _members(answer)
    if len(golds) != len(answers):
        return False
    if len(golds) == 1:
        return _same_single(golds[0], answers[0], algebra)
    return _same_in_any_order(golds, answers, algebra)


def _members(text: str) -> list[str]:
    braced = text.startswith(r"\{") and text.endswith(r"\}") and len(split_list(text)) == 1
    members = []
    for member in split_list(text[2:-2] if braced else text) or [text]:
        if member.count(r"\pm") == 1:
            members += [member.replace(r"\pm", sign).strip().removeprefix("+").strip() for sign in "+-"]
        else:
            members.append(member)
    unique = list({text_key(member): member for member in members}.values())
    return [f"\\{{{unique[0]}\\}}"] if braced and len(unique) == 1 else unique


def _same_in_any_order(golds: Sequence[str], answers: Sequence[str], algebra: Algebra) -> bool:
    left = list(answers)
    for gold in golds:
        match = next((answer for answer in left if same_answer(gold, answer, algebra)), None)
        if match is None:
            return False
        left.remove(match)
    return True


def _same_single(gold: str, answer: str, algebra: Algebra) -> bool:
    if text_key(gold) == text_key(answer):
        return True
    gold, answer = _BELONGS.sub("", gold), _BELONGS.sub("", answer)
    if not _EQUALS.search(gold) and (sides := _sides(answer, gold)) != [answer]:
        return bool(sides) and all(same_answer(gold, side, algebra) for side in sides)
    if (assigned := _assignment(gold)) is not None:
        name, value = assigned
        sides = [side.strip() for side in _EQUALS.split(answer)]
        if len(sides) == 1:
            return same_answer(value, answer, algebra)
        if text_key(sides[0]) == text_key(name):
            return all(same_answer(value, side, algebra) for side in sides[1:])
    elif _EQUALS.search(gold) and not _EQUALS.search(answer):
        return False
    if text_key(_TEXT.sub(r"\1", gold)).casefold() == text_key(_TEXT.sub(r"\1", answer)).casefold() and _TEXT.search(
        gold
    ):
        return True
    if (based := _same_in_base(gold, answer)) is not None:
        return based
    if is_words(gold) or _BARE_CHOICE.fullmatch(gold) or is_words(answer):
        return _same_words(gold, answer)
    numbers = read_number(gold), read_number(answer)
    bare_gold, gold_unit = without_unit(gold)
    bare_answer, answer_unit = without_unit(answer)
    if not same_unit(gold_unit, answer_unit):
        return False
    one, other = numbers[0] or read_number(bare_gold), numbers[1] or read_number(bare_answer)
    if one is not None and other is not None:
        return same_numbers(one, other)
    if (bare_gold, bare_answer) != (gold, answer):
        return same_answer(bare_gold, bare_answer, algebra)
    parts = _parts(gold), _parts(answer)
    if parts[0] is not None and parts[1] is not None:
        return _same_parts(parts[0], parts[1], algebra)
    if _UNION.search(gold) and _UNION.search(answer):
        unions = _UNION.split(gold), _UNION.split(answer)
        if len(unions[0]) == len(unions[1]):
            return _same_in_any_order([u.strip() for u in unions[0]], [u.strip() for u in unions[1]], algebra)
    if _LETTER.fullmatch(gold) and _LETTER.fullmatch(answer):
        return False  # x and X are two names, which math-verify takes for one
    return algebra(_without_percent(gold), _without_percent(answer))


def _sides(answer: str, gold: str) -> list[str]:
    """What an equation says of the value: all of its sides but names. A text that is no equation has one side.

    `x = 5` says 5; `2 + 3 = 5` says 5 twice; `5 = 6` says two things. Of `\\pi \\approx 3.14` the exact side counts.
    """
    answer, *_ = [side for side in _APPROXIMATE.split(answer) if not _NAME.fullmatch(side)] or [answer]
    sides = [side.strip() for side in _EQUALS.split(answer)]
    if len(sides) == 1:
        return sides
    named = [side for side in sides if not _NAME.fullmatch(side) or text_key(side) == text_key(gold)]
    if len(named) == len(sides) and _has_names(sides[0]) and not _has_names(gold):
        return named[1:]  # a + b = 5, where the ground truth is 5
    return named


def _has_names(text: str) -> bool:
    return re.search(r"[a-zA-Z]", re.sub(r"\\[A-Za-z]+", "", text)) is not None


def _assignment(gold: str) -> tuple[str, str] | None:
    """The name and the value of a ground truth that is one assignment (`x = 5`)."""
    sides = _EQUALS.split(gold)
    if len(sides) != 2 or not sides[0].strip() or not _NAME.fullmatch(sides[0]):
        return None
    return sides[0].strip(), sides[1].strip()


def _same_in_base(gold: str, answer: str) -> bool | None:
    """Numerals with their base (2516_8), which may be left out like a unit; None where neither has one."""
    one, other = _BASED.fullmatch(gold), _BASED.fullmatch(answer)
    if one is None and other is None:
        return None
    digits = [found[1] if found else text.strip() for found, text in ((one, gold), (other, answer))]
    return digits[0] == digits[1] and (one is None or other is None or one[2] == other[2])


def _same_words(gold: str, answer: str) -> bool:
    if (choice := _BARE_CHOICE.fullmatch(gold)) is not None:
        # The letter of a choice, with its text or without.
        chosen = _BARE_CHOICE.fullmatch(answer) or _CHOICE.fullmatch(answer)
        return chosen is not None and choice[1] in chosen.groups()
    return _letters(gold) == _letters(answer)


def _letters(text: str) -> str:
    return re.sub(r"[\s.,'’\"()!]+|\\[ ,;]", "", _TEXT.sub(r"\1", text)).casefold()


def same_numbers(gold: Numeral, answer: Numeral) -> bool:
    """Whether two numbers are equal; a sign of percent may be a unit (50 for 50 %) or a hundredth (0.5 for 50 %)."""
    if gold.percent == answer.percent:
        return _equal(gold.value, answer.value)
    if gold.percent:
        return any(_equal(value, answer.value) for value in gold.values())
    # Of a number below one, percent is no unit that may be left out: 0.5 % is not a half.
    return any(_equal(gold.value, value) for value in answer.values() if value != answer.value or abs(gold.value) >= 1)


def _equal(gold: Fraction, answer: Fraction) -> bool:
    if gold == answer:
        return True
    if _ends(gold) and _ends(answer):
        return False
    return abs(gold - answer) <= min(_ROUNDING, _RELATIVE * abs(gold))


def _ends(value: Fraction) -> bool:
    """Whether a number's decimals end."""
    below = value.denominator
    for prime in (2, 5):
        while below % prime == 0:
            below //= prime
    return below == 1


def _parts(text: str) -> tuple[str, list[str], str] | None:
    """The brackets and the members of a point, an interval or a set; None where the text is none of them."""
    opening = next((sign for sign in _OPEN if text.startswith(sign)), None)
    closing = next((sign for sign in _CLOSE if text.endswith(sign)), None)
    if opening is None or closing is None or not _is_one_group(text):
        return None
    members = split_list(text[len(opening) : -len(closing)])
    return (opening, members, closing) if len(members) > 1 or opening == r"\{" else None


def _is_one_group(text: str) -> bool:
    """Whether the bracket that a text begins with is closed at its end only."""
    depth = 0
    for found in re.finditer(r"\\?[(\[{)\]}]", text):
        depth += 1 if found[0][-1] in "([{" else -1
        if depth == 0:
            return found.end() == len(text)
    return False


def _same_parts(gold: tuple[str, list[str], str], answer: tuple[str, list[str], str], algebra: Algebra) -> bool:
    if (gold[0], gold[2]) != (answer[0], answer[2]) or len(gold[1]) != len(answer[1]):
        return False
    if gold[0] == r"\{":
        return _same_in_any_order(gold[1], answer[1], algebra)
    return all(same_answer(one, other, algebra) for one, other in zip(gold[1], answer[1], strict=True))


def _without_percent(text: str) -> str:
    return text.removesuffix("%").strip()
