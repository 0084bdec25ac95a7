"""A plot as data: lines and areas over the steps, a healthy band, marks; `drawing` makes the picture of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

from gspo.observe.report.run import Curve, mean

__all__ = ["COLORS", "Area", "Line", "Mark", "Plot", "line_of", "thinned"]

COLORS = ("#3b7ddd", "#e8833a", "#2ba56f", "#9a60d6", "#d9534f", "#c9a227", "#4bb3c4", "#7a8694")
_GAP, _ENOUGH = 5.0, 8  # times the usual distance of two points, of which there must be some
_MAX_POINTS = 600  # more than a chart's width in pixels only makes the file larger


@dataclass(frozen=True)
class Line:
    """Values over x, None where there is none.

    Attributes:
        pale: whether it stands behind a line that says the same.
        dots: whether its points are marked.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    color: str = COLORS[0]
    pale: bool = False
    dots: bool = False


@dataclass(frozen=True)
class Area:
    """What lies between two lines.

    Attributes:
        is_sum: whether its height is what is told of it, as in a stack; else its two edges are.
    """

    name: str
    x: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    color: str = COLORS[0]
    is_sum: bool = False


@dataclass(frozen=True)
class Mark:
    """A step at which something begins."""

    x: float
    label: str


@dataclass(frozen=True)
class Plot:
    """Everything that is drawn on one pair of axes.

    Attributes:
        shapes: lines and areas, the first ones behind the others.
        band: the healthy range, drawn pale; either end may be infinite.
        level: a value to compare with, and its name.
        marks: steps at which something begins.
        legend: whether the shapes' names are shown.
        percent: whether values are fractions to be shown in per cent.
        unit: of the values.
        x_title: what the horizontal axis is.
        whole: whether x are whole numbers.
        log: whether the vertical axis is logarithmic.
        from_zero: whether the vertical axis begins at zero.
    """

    shapes: Sequence[Line | Area]
    band: tuple[float, float] | None = None
    level: tuple[float, str] | None = None
    marks: Sequence[Mark] = field(default=())
    legend: bool = False
    percent: bool = False
    unit: str = ""
    x_title: str = "step"
    whole: bool = True
    log: bool = False
    from_zero: bool = False

    def x_range(self) -> tuple[float, float]:
        """Where the horizontal axis begins and ends."""
        xs = [x for shape in self.shapes for x in (shape.x[0], shape.x[-1])]
        low, high = min(xs), max(xs)
        return (low, high) if high > low else (low - 0.5, high + 0.5)

    def marks_within(self) -> list[Mark]:
        """The marks between the ends of the horizontal axis."""
        low, high = self.x_range()
        return [mark for mark in self.marks if low < mark.x < high]

    def y_range(self) -> tuple[float, float]:
        """Where the vertical axis begins and ends; of a logarithmic one both are above zero."""
        values = [value for shape in self.shapes for value in _values(shape)]
        if self.log:
            values = [value for value in values if value > 0]
            return (min(values) / 1.3, max(values) * 1.3) if values else (0.1, 1.0)
        if self.level is not None:
            values.append(self.level[0])
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
        # Shares and lengths cannot be negative: no empty strip below zero.
        bottom = low - margin if low < 0 or (low > margin and not self.from_zero) else min(0.0, -0.02 * high)
        top = high + margin
        return (bottom, min(top, 1.02) if self.percent and high <= 1 else top)


def _values(shape: Line | Area) -> list[float]:
    values = shape.y if isinstance(shape, Line) else [*shape.low, *shape.high]
    return [value for value in values if value is not None and math.isfinite(value)]


def thinned(curve: Curve) -> tuple[list[float], list[float | None]]:
    """Steps and values of a curve, means over equal parts of a long one; None where a value is not finite."""
    parts = min(_MAX_POINTS, len(curve.values))
    bounds = [len(curve.values) * part // parts for part in range(parts + 1)]
    cuts = [slice(start, end) for start, end in pairwise(bounds)]
    means = [mean(curve.values[cut]) for cut in cuts]
    values = [float(f"{value:.6g}") if math.isfinite(value) else None for value in means]
    return [curve.steps[cut][-1] for cut in cuts], values


def _with_gaps(xs: Sequence[float], ys: Sequence[float | None]) -> tuple[list[float], list[float | None]]:
    """The same with an empty point in each long gap, so that no line is drawn over steps without the metric."""
    widths = [later - earlier for earlier, later in pairwise(xs)]
    usual = median(widths) if widths else 0.0
    x, y = list(xs[:1]), list(ys[:1])
    for width, place, value in zip(widths, xs[1:], ys[1:], strict=True):
        if len(widths) >= _ENOUGH and width > _GAP * usual:
            x.append(place - width / 2)
            y.append(None)
        x.append(place)
        y.append(value)
    return x, y


def line_of(curve: Curve, name: str, number: int = 0, *, dots: bool = False, pale: bool = False) -> Line:
    """A curve as a line in the color of a number."""
    x, y = _with_gaps(*thinned(curve))
    return Line(name, x, y, COLORS[number % len(COLORS)], pale, dots)
