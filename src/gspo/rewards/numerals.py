"""Numbers as answers write them, read exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Numeral", "read_number", "spelled"]

# Longer numbers are no sound answers, and Python's own limit for reading integers is 4300.
_MAX_DIGITS = 400

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?: \d{3})+(?!\d)|\d++)"
_NUMERAL = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:(?:US)?[$€£¥]\s*)?(?P<inner_sign>-?)\s*"
    rf"(?:(?P<whole>{_DIGITS})\s*(?:\+\s*)?)??"
    r"(?:\\frac\{(?P<top>-?\d+)\}\{(?P<bottom>\d+)\}"
    rf"|(?P<plain_top>{_DIGITS})\s*/\s*(?P<plain_bottom>\d+)"
    rf"|(?P<integer>{_DIGITS})?(?P<decimals>\.\d*)?"
    r"(?:\\overline\{(?P<bar>\d+)\}|\\dot\{(?P<dot>\d)\}|\((?P<bracket>\d+)\)|(?P<dots>\\ldots|\.\.\.|…))?)"
    r"\s*(?:(?:\\times|\\cdot|\*|x)\s*10\s*\^\s*\{?\s*(?P<power>[+-]?\d+)\s*\}?|[eE](?P<exponent>[+-]?\d+))?"
    r"\s*(?P<percent>%|\\text\{\s*(?:percent|percentage)\s*\}|percent(?:age)?(?:\s+points?)?)?"
)
_MULTIPLIERS = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12}
_MULTIPLIED = re.compile(rf"^(.*\d)\s*(?:\\text\{{)?\s*({'|'.join(_MULTIPLIERS)})s?\s*\}}?$")


@dataclass(frozen=True)
class Numeral:
    """A number that was read.

    Attributes:
        value: exactly; 50 for 50 %.
        percent: whether a sign of percent follows.
    """

    value: Fraction
    percent: bool = False

    def values(self) -> set[Fraction]:
        """What the number may stand for: 50 % is 50 of the unit percent, and a half."""
        return {self.value, self.value / 100} if self.percent else {self.value}


def read_number(text: str) -> Numeral | None:
    """The number that a plain text is as a whole; None where it is none.

    An integer, a decimal, a fraction, a mixed or repeating decimal number, with a sign, a currency sign, marks of
    thousands, a power of ten, percent or a word such as million.
    """
    text = text.strip().rstrip(".").strip() if not text.endswith("..") else text.strip()
    if len(text) > _MAX_DIGITS or not any(sign.isdigit() for sign in text):
        return None
    if found := _MULTIPLIED.match(text):
        inner = read_number(found[1])
        return None if inner is None or inner.percent else Numeral(inner.value * _MULTIPLIERS[found[2]])
    match = _NUMERAL.fullmatch(text)
    if match is None:
        return None
    size = _size(match)
    power = int(match["power"] or match["exponent"] or 0)
    if size is None or abs(power) > _MAX_DIGITS:
        return None
    if match["whole"]:
        size += _integer(match["whole"])
    negative = (match["sign"] == "-") != (match["inner_sign"] == "-")
    return Numeral((-size if negative else size) * Fraction(10) ** power, match["percent"] is not None)


def spelled(number: Numeral) -> str:
    """A number as the text of a vote: a decimal where it ends soon, else a fraction. 1/2 and 0.5 are the same."""
    value = number.value
    scaled = value * 10**6
    if scaled.denominator != 1:
        return str(value)
    whole, rest = divmod(abs(scaled.numerator), 10**6)
    decimals = f".{rest:06d}".rstrip("0").rstrip(".")
    return f"{'-' if value < 0 else ''}{whole}{decimals}"


def _size(match: re.Match[str]) -> Fraction | None:
    for top, bottom in (("top", "bottom"), ("plain_top", "plain_bottom")):
        if match[top] is not None:
            below = int(match[bottom])
            return Fraction(_integer(match[top]), below) if below else None
    if match["whole"] is not None:
        return None  # "1 2" is no number
    integer, decimals = match["integer"] or "", (match["decimals"] or "").removeprefix(".")
    if not integer and not decimals and not (match["bar"] or match["dot"] or match["bracket"]):
        return None
    size = Fraction(_integer(integer or "0")) + Fraction(int(decimals or "0"), 10 ** len(decimals))
    repeated = match["bar"] or match["dot"] or match["bracket"]
    if match["dots"]:
        repeated = _repetition(decimals)
        if repeated is None:
            return None
    if repeated:
        if match["decimals"] is None:
            return None
        size += Fraction(int(repeated), (10 ** len(repeated) - 1) * 10 ** len(decimals))
    return size


def _repetition(decimals: str) -> str | None:
    """What `0.333...` and `0.1212...` repeat: the shortest end that comes twice; None where nothing does."""
    for length in range(1, len(decimals) // 2 + 1):
        if decimals[-length:] == decimals[-2 * length : -length]:
            return decimals[-length:]
    return None


def _integer(digits: str) -> int:
    return int(digits.replace(",", "").replace(" ", ""))
