"""Units, currencies and words that follow a number, and what is left without them."""

from __future__ import annotations

import re

__all__ = ["same_unit", "without_unit"]

# Spellings of units of measure. Two answers that name different ones of these differ; other words are not compared.
_SPELLINGS = {
    "mm": "mm millimeter millimeters millimetre millimetres 毫米",
    "cm": "cm centimeter centimeters centimetre centimetres 厘米",
    "m": "m meter meters metre metres 米",
    "km": "km kilometer kilometers kilometre kilometres 千米 公里",
    "in": "in inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "g": "g gram grams 克",
    "kg": "kg kilogram kilograms 千克 公斤",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "s": "s sec second seconds 秒",
    "min": "min minute minutes 分钟",
    "h": "h hr hrs hour hours 小时",
    "d": "day days 天",
    "wk": "week weeks",
    "mo": "month months 个月",
    "yr": "yr year years 年",
    "l": "l liter liters litre litres",
    "ml": "ml milliliter milliliters millilitre millilitres",
    "cent": "cent cents ¢",
    "dollar": "$ dollar dollars usd 美元",
    "am": "am a.m. a.m",
    "pm": "pm p.m. p.m",
    "mph": "mph",
    "deg": r"degree degrees ^{\circ} 度",
}
_KNOWN = {spelling: unit for unit, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_NO_UNIT = {
    "or",
    "and",
    "to",
    "hundred",
    "thousand",
    "million",
    "billion",
    "trillion",
    "dozen",
    "percent",
    "mod",
    "choose",
}
_POWER = r"(?:\s*\^\s*\{?\d\}?)?"
# Words behind what ends in a digit, a brace or a bracket; in \text{...}, bare, or the sign of degrees.
_IN_TEXT = re.compile(rf"^(?P<rest>.*?[\w)}}\]])\s*\\text\{{\s*(?P<unit>[^{{}}\d]+?)\s*\}}{_POWER}\s*\.?$", re.DOTALL)
_BARE = re.compile(
    rf"^(?P<rest>.*\d[}})]?)\s*(?<![A-Za-z\\])(?P<unit>[A-Za-z¢一-鿿][A-Za-z.一-鿿/ -]*){_POWER}$", re.DOTALL
)
_DEGREES = re.compile(r"^(?P<rest>.*?[\w)}\]])\s*\^\{\\circ\}\s*(?:[CF]|\\text\{\s*[CF]\s*\})?$", re.DOTALL)
_CURRENCY = re.compile(r"^(?P<sign>[+-]?)\s*(?:US)?(?P<unit>[$€£¥])\s*(?P<rest>-?\s*[\d.\\].*)$", re.DOTALL)


def without_unit(text: str) -> tuple[str, str | None]:
    """A plain answer without the unit at its end or the currency at its beginning, and that unit in one spelling.

    Words are a unit behind a number only: `\\text{east}` and `x` stay.
    """
    if found := _CURRENCY.match(text):
        return found["sign"] + found["rest"].strip(), "dollar" if found["unit"] == "$" else found["unit"]
    if found := _DEGREES.match(text):
        return found["rest"].strip(), "deg"
    for pattern in (_IN_TEXT, _BARE):
        found = pattern.match(text)
        if found is None or _is_no_unit(found["unit"]) or not re.search(r"\d|\\pi", found["rest"]):
            continue
        if pattern is _BARE and not _is_words(found["unit"]):
            continue
        return found["rest"].strip(), _spelling(found["unit"])
    return text, None


def same_unit(one: str | None, other: str | None) -> bool:
    """Whether two units may be the same: not where both are known and differ. Squares and cubes are not compared."""
    if one is None or other is None or not {one, other} <= _KNOWN_UNITS:
        return True
    return one == other


_KNOWN_UNITS = frozenset(_KNOWN.values())


def _spelling(unit: str) -> str:
    words = unit.strip().casefold()
    words = re.sub(r"^(?:square|cubic|sq\.?|cu\.?)\s+|\s+(?:squared|cubed)$", "", words)
    return _KNOWN.get(words, words)


def _is_no_unit(unit: str) -> bool:
    words = re.findall(r"[A-Za-z]+", unit.casefold())
    return any(word in _NO_UNIT for word in words) or any(sign in unit for sign in "或和")


def _is_words(unit: str) -> bool:
    """Whether letters behind a number are words, and no factors (`2x`, `3ab`)."""
    words = unit.casefold().split()
    return len(unit) > 3 or all(word in _KNOWN and len(word) > 1 for word in words) or not unit.isascii()
