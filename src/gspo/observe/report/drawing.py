"""The picture of a plot: an SVG that stretches with the page, between axes of text that keeps its size.

The curves fill a box of `_SIZE` units a side, which is stretched to whatever room there is; strokes and dots are drawn
in pixels all the same (`non-scaling-stroke`). Labels are placed by per cent of the box. So one picture serves a phone
and a wide screen, and needs no script; the script of the page only reads values out under the pointer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from markupsafe import Markup, escape

from gspo.observe.report.numbers import Ticks, log_ticks, ticks
from gspo.observe.report.plots import Area, Line, Plot

__all__ = ["draw", "read_out"]

_SIZE = 1000
_MOST_X, _MOST_Y = 8, 5
_MARK_LINE = 14  # pixels
_CROWDED = 60  # points beyond which dots would hide the line

Place = Callable[[float], float]


def draw(plot: Plot) -> Markup:
    """The plot as HTML."""
    across, up = _places(plot)
    x_ticks, y_ticks = _axes(plot)
    widest = max((len(label) for label in y_ticks.labels), default=1)
    parts = [
        f'<div class="plot" style="--ticks: {widest}ch">',
        f'<div class="unit">{escape(" ".join(filter(None, (y_ticks.note, plot.unit))))}</div>',
        '<div class="box">',
        f'<svg viewBox="0 0 {_SIZE} {_SIZE}" preserveAspectRatio="none" aria-hidden="true">',
        *_background(plot, across, up, y_ticks),
        *(part for shape in plot.shapes for part in _shape(shape, across, up)),
        "</svg>",
        *_labels(plot, across, up, x_ticks, y_ticks),
        "</div>",
        f'<div class="x-title">{escape(plot.x_title)}</div></div>',
    ]
    return Markup("".join([*_legend(plot), *parts]))


def read_out(plot: Plot) -> dict[str, Any]:
    """What the page's script shows under the pointer: the horizontal range, and names and values over x."""
    shapes = [shape for shape in plot.shapes if not (isinstance(shape, Line) and shape.pale)]
    rows = [
        {"name": s.name, "color": s.color, "x": list(s.x), "y": list(s.y)}
        if isinstance(s, Line)
        else {"name": s.name, "color": s.color, "x": list(s.x), "y": _told(s)}
        for s in shapes
    ]
    return {"range": plot.x_range(), "title": plot.x_title, "percent": plot.percent, "unit": plot.unit, "rows": rows}


def _told(area: Area) -> list[Any]:
    pairs = list(zip(area.low, area.high, strict=True))
    return [float(f"{high - low:.6g}") for low, high in pairs] if area.is_sum else [list(pair) for pair in pairs]


def _places(plot: Plot) -> tuple[Place, Place]:
    """Where a value lies in the box, from its left and from its top."""
    (left, right), (bottom, top) = plot.x_range(), plot.y_range()
    if plot.log:
        low, high = math.log10(bottom), math.log10(top)
        return (
            lambda x: _SIZE * (x - left) / (right - left),
            lambda y: _SIZE * (high - math.log10(y)) / (high - low),
        )
    return lambda x: _SIZE * (x - left) / (right - left), lambda y: _SIZE * (top - y) / (top - bottom)


def _axes(plot: Plot) -> tuple[Ticks, Ticks]:
    across = ticks(*plot.x_range(), _MOST_X, whole=plot.whole)
    low, high = plot.y_range()
    return across, log_ticks(low, high) if plot.log else ticks(low, high, _MOST_Y, percent=plot.percent)


def _background(plot: Plot, across: Place, up: Place, y_ticks: Ticks) -> Iterator[str]:
    if plot.band is not None and not plot.log:
        bottom, top = plot.y_range()
        low, high = max(plot.band[0], bottom), min(plot.band[1], top)
        if low < high:
            yield f'<rect class="band" x="0" width="{_SIZE}" y="{up(high):.1f}" height="{up(low) - up(high):.1f}"/>'
    for value in y_ticks.values:
        yield f'<path class="grid" d="M0 {up(value):.1f}H{_SIZE}"/>'
    if plot.level is not None:
        yield f'<path class="level" d="M0 {up(plot.level[0]):.1f}H{_SIZE}"/>'
    for mark in plot.marks_within():
        yield f'<path class="mark" d="M{across(mark.x):.1f} 0V{_SIZE}"/>'
    yield f'<path class="axis" d="M0 {_SIZE}H{_SIZE}"/>'


def _shape(shape: Line | Area, across: Place, up: Place) -> Iterator[str]:
    if isinstance(shape, Area):
        upper = [f"{across(x):.1f} {up(y):.1f}" for x, y in zip(shape.x, shape.high, strict=True)]
        lower = [f"{across(x):.1f} {up(y):.1f}" for x, y in zip(shape.x, shape.low, strict=True)]
        if len(upper) == 1:  # of one step there is no width: a bar across the box
            upper, lower = (
                [f"0 {up(shape.high[0]):.1f}", f"{_SIZE} {up(shape.high[0]):.1f}"],
                [
                    f"0 {up(shape.low[0]):.1f}",
                    f"{_SIZE} {up(shape.low[0]):.1f}",
                ],
            )
        kind = "stack" if shape.is_sum else "spread"
        yield f'<path class="{kind}" style="fill: {shape.color}" d="M{"L".join([*upper, *reversed(lower)])}Z"/>'
        return
    pieces = list(_pieces(shape, across, up))
    path = "".join(f"M{'L'.join(piece)}" for piece in pieces if len(piece) > 1)
    if path:
        kind = "pale" if shape.pale else "line"
        yield f'<path class="{kind}" stroke="{shape.color}" d="{path}"/>'
    points = [point for piece in pieces for point in piece]
    # A point between two gaps is no line: it would not be seen.
    alone = [piece[0] for piece in pieces if len(piece) == 1]
    if dots := points if shape.dots and len(points) <= _CROWDED else alone:
        yield f'<path class="dot" stroke="{shape.color}" d="{"".join(f"M{point}h0" for point in dots)}"/>'


def _pieces(line: Line, across: Place, up: Place) -> Iterator[list[str]]:
    """The line's points between its gaps."""
    piece: list[str] = []
    for x, y in zip(line.x, line.y, strict=True):
        if y is None:
            if piece:
                yield piece
            piece = []
        else:
            piece.append(f"{across(x):.1f} {up(y):.1f}")
    if piece:
        yield piece


def _labels(plot: Plot, across: Place, up: Place, x_ticks: Ticks, y_ticks: Ticks) -> Iterator[str]:
    for value, label in zip(y_ticks.values, y_ticks.labels, strict=True):
        yield f'<span class="y" style="top: {up(value) / _SIZE:.2%}">{escape(label)}</span>'
    for value, label in zip(x_ticks.values, x_ticks.labels, strict=True):
        yield f'<span class="x" style="left: {across(value) / _SIZE:.2%}">{escape(label)}</span>'
    if plot.level is not None:
        value, name = plot.level
        yield f'<span class="level-name" style="top: {up(value) / _SIZE:.2%}">{escape(name)}</span>'
    for row, mark in enumerate(plot.marks_within()):  # each name on a line of its own: they may stand close
        place = across(mark.x) / _SIZE
        side = f"right: {1 - place:.2%}" if place > 0.5 else f"left: {place:.2%}"
        yield f'<span class="mark-name" style="{side}; top: {_MARK_LINE * row + 2}px">{escape(mark.label)}</span>'


def _legend(plot: Plot) -> Sequence[str]:
    if not plot.legend:
        return []
    named = [shape for shape in plot.shapes if not (isinstance(shape, Line) and shape.pale)]
    entries = {shape.name: shape.color for shape in named}
    return [
        '<div class="legend">',
        *(f'<span><i style="background: {color}"></i>{escape(name)}</span>' for name, color in entries.items()),
        "</div>",
    ]
