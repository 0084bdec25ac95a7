"""Curves in one line of text, and figures short enough to follow them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

__all__ = ["duration", "quantity", "sparkline"]

_BARS = "▁▂▃▄▅▆▇█"
_ROUNDING = 1e-9  # averages of one constant differ in their last bits, and that is no curve
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def sparkline(values: Sequence[float], width: int) -> str:
    """The values as bars of eight heights, at most `width` of them; longer series are averaged in equal parts.

    What is not finite is left out of the averages, and a part without a finite value is a blank.
    """
    parts = min(width, len(values))
    bounds = [len(values) * part // parts for part in range(parts + 1)] if parts else [0]
    means = []
    for start, end in itertools.pairwise(bounds):
        finite = [value for value in values[start:end] if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    known = [mean for mean in means if math.isfinite(mean)]
    if not known:
        return " " * len(means)
    low, span = min(known), max(known) - min(known)
    flat = span <= _ROUNDING * max(map(abs, known))
    return "".join(_bar(mean if math.isnan(mean) else 0.0 if flat else (mean - low) / span) for mean in means)


def _bar(height: float) -> str:
    return _BARS[round(height * (len(_BARS) - 1))] if math.isfinite(height) else " "


def duration(seconds: float) -> str:
    """Seconds as a person says them: 4.2s, 3m 20s, 2h 05m, 1d 03h."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < _MINUTE:
        return f"{seconds:.1f}s" if round(seconds, 1) < 10 else f"{seconds:.0f}s"
    whole = round(seconds)
    if whole < _HOUR:
        return f"{whole // _MINUTE}m {whole % _MINUTE:02d}s"
    if whole < _DAY:
        return f"{whole // _HOUR}h {whole % _HOUR // _MINUTE:02d}m"
    return f"{whole // _DAY}d {whole % _DAY // _HOUR:02d}h"


def quantity(value: float) -> str:
    """A figure in at most eight characters, three digits or so: 0.512, 1.2e-04, 143, 12.3k, 4.5M."""
    size = abs(value)
    if not math.isfinite(value):
        return str(value)
    if size >= 1e9:
        return f"{value / 1e9:.1f}G"
    if size >= 1e6:
        return f"{value / 1e6:.1f}M"
    if size >= 1e4:
        return f"{value / 1e3:.1f}k"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 0.01 or size == 0:
        return f"{value:.3f}"
    if size >= 0.001:
        return f"{value:.4f}"
    return f"{value:.1e}"
