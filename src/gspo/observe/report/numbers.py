"""Figures as a person reads them: plain decimals, k and M for large ones, powers of ten only where zeros would blur."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count

__all__ = ["Ticks", "exact", "log_ticks", "plain", "share", "ticks"]

_PLAIN_FROM = 1e-4  # below it a reader would have to count zeros
_SCALED_BELOW = 5e-4  # an axis that ends below it says its power of ten once
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


def plain(value: float) -> str:
    """A figure of three digits or so: 0.512, 0.00012, 143, 12.3k, 4.5M, 1.2 × 10⁻⁶."""
    size = abs(value)
    if not math.isfinite(value):
        return "not finite"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= unit:
            return f"{value / (1e3 if name == 'k' else unit):.1f}{name}"
    if size == 0:
        return "0"
    if size < _PLAIN_FROM:
        power = math.floor(math.log10(size))
        return f"{value / 10.0**power:.2g} × {_power(power)}"
    digits = max(0, 2 - math.floor(math.log10(size)))
    text = f"{value:.{digits}f}"
    return text if size >= 1 else text.rstrip("0").rstrip(".")


def exact(value: float) -> str:
    """A setting as it was written: 0.2, 0.0003."""
    return f"{value:.12f}".rstrip("0").rstrip(".")


def share(value: float) -> str:
    """A fraction in per cent, with a decimal where it is small or nearly all."""
    percent = 100 * value
    if 0 < percent < 0.1:
        return "below 0.1 %"
    return f"{percent:.0f} %" if 10 <= percent <= 90 or percent in (0, 100) else f"{percent:.1f} %"


class Ticks:
    """The marks of an axis.

    Attributes:
        values: where they are, in rising order.
        labels: what stands there.
        note: what all of them are to be multiplied by, as "× 10⁻⁶"; empty for nothing.
    """

    def __init__(self, values: Sequence[float], labels: Sequence[str], note: str = "") -> None:
        self.values, self.labels, self.note = list(values), list(labels), note


def ticks(low: float, high: float, most: int, *, percent: bool = False, whole: bool = False) -> Ticks:
    """Round marks within a range.

    Args:
        low: where the axis begins.
        high: where it ends.
        most: the most marks.
        percent: whether the values are fractions to be shown in per cent.
        whole: whether only whole numbers may be marked.
    """
    step = _step((high - low) / max(1, most - 1), whole)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [number * step for number in range(first, last + 1)]
    largest = max(abs(low), abs(high))
    scale, note = (100.0, "") if percent else (1.0, "")
    if not percent and 0 < largest < _SCALED_BELOW:
        power = math.floor(math.log10(largest))
        scale, note = 10.0**-power, f"× {_power(power)}"
    decimals = next(n for n in count() if abs(round(step * scale, n) - step * scale) < 1e-6 * step * scale)
    labels = [_label(value * scale, decimals) + (" %" if percent else "") for value in values]
    return Ticks(values, labels, note)


def log_ticks(low: float, high: float) -> Ticks:
    """The powers of ten within a range above zero, with 2 and 5 of each where there would be fewer than three marks."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5)):
        values = [factor * 10.0**power for power in powers for factor in factors]
        values = [value for value in values if low <= value <= high]
        if len(values) >= 3:
            break
    return Ticks(values, [f"{value:.10f}".rstrip("0").rstrip(".") for value in values])


def _step(width: float, whole: bool) -> float:
    power = 10.0 ** math.floor(math.log10(width)) if width > 0 else 1.0
    steps = [factor * power for factor in _STEPS if factor * power >= width * (1 - 1e-9)]
    if not whole:
        return steps[0]
    return float(max(1, next((step for step in steps if step == int(step)), 1.0)))


def _label(value: float, decimals: int) -> str:
    size = abs(value)
    if size >= 1e6:
        return f"{value / 1e6:g}M"
    if size >= 1e4:
        return f"{value / 1e3:g}k"
    return f"{value + 0.0:.{decimals}f}"


def _power(power: int) -> str:
    return f"10{str(power).translate(_SUPERSCRIPTS)}"
