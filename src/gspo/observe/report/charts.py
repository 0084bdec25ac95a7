"""The report's charts as plotly figures (plain dictionaries), with what the reader needs to know of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from gspo.observe.report.meanings import MEANINGS, Band, Meaning
from gspo.observe.report.run import Curve, Run, mean

__all__ = ["COLORS", "Chart", "chart_groups", "smoothed"]

COLORS = ("#3b7ddd", "#e8833a", "#2ba56f", "#9a60d6", "#d9534f", "#c9a227", "#4bb3c4", "#7a8694")
_BAND_FILL = "rgba(43, 165, 111, 0.10)"
_MAX_POINTS = 600  # more than a chart's width in pixels only makes the file larger
_SMOOTH_FROM = 24  # shorter curves are drawn as they are
_SMOOTH_SHARE = 0.04  # of the curve, on each side of a point


@dataclass(frozen=True)
class Chart:
    """One figure. `key` is its metric in MEANINGS and its status' source, or empty."""

    title: str
    text: str
    figure: dict[str, Any]
    key: str = ""
    healthy: str = ""
    lever: str = ""


def chart_groups(run: Run) -> list[tuple[str, list[Chart]]]:
    """The charts that the run has metrics for, in named groups."""
    groups = {
        "Learning": [
            _accuracy(run),
            _banded(run, "critic/score"),
            *(_single(run, f"{split}/loss") for split in ("train", "val")),
            _single(run, "group/zero_spread"),
        ],
        "Length": [_banded(run, "response_length"), _single(run, "response_length/clip_ratio")],
        "Policy": [
            _single(run, "actor/pg_clipfrac"),
            _single(run, "actor/seq_clipfrac"),
            _ratio(run),
            *(_single(run, f"actor/{name}") for name in ("ppo_kl", "kl_loss", "entropy", "grad_norm")),
        ],
        "Critic": [
            *(_single(run, f"critic/{name}") for name in ("d_acc", "margin")),
            *(_single(run, f"critic/{name}") for name in ("vf_explained_var", "vf_loss")),
        ],
        "Time": [_time(run), _throughput(run)],
    }
    return [(name, found) for name, charts in groups.items() if (found := [chart for chart in charts if chart])]


def _known(run: Run, key: str, figure: dict[str, Any]) -> Chart:
    meaning: Meaning = MEANINGS[key]
    return Chart(meaning.label, meaning.text, figure, key, meaning.healthy_words(run.loss), meaning.lever)


def _accuracy(run: Run) -> Chart | None:
    curves = {
        name.removeprefix("val-core/").replace("/acc/", " "): curve
        for name, curve in run.curves.items()
        if name.startswith("val-core/") and "/acc/" in name and run.has(name)
    }
    if not curves:
        return None
    traces = [_line(curve, name, number, "lines+markers") for number, (name, curve) in enumerate(curves.items())]
    return _known(run, "held-out", _figure(traces, list(curves.values()), percent=True, legend=True))


def _single(run: Run, key: str) -> Chart | None:
    if not run.has(key):
        return None
    curve, label = run.curves[key], MEANINGS[key].label
    band = MEANINGS[key].band_for(run.loss)
    return _known(run, key, _figure(_with_smooth(curve, label), [curve], band=band))


def _banded(run: Run, prefix: str) -> Chart | None:
    """The mean, over a pale band from the smallest to the largest."""
    key = f"{prefix}/mean"
    if not run.has(key):
        return None
    traces, curves = _with_smooth(run.curves[key], "mean"), [run.curves[key]]
    if run.has(f"{prefix}/min") and run.has(f"{prefix}/max"):
        low, high = run.curves[f"{prefix}/min"], run.curves[f"{prefix}/max"]
        shape = {"width": 0, "color": COLORS[0]}
        floor = {**_line(low, "smallest", 0), "line": shape}
        ceiling = {**_line(high, "largest", 0), "line": shape, "fill": "tonexty", "fillcolor": "rgba(59,125,221,0.10)"}
        traces, curves = [floor, ceiling, *traces], [*curves, low, high]
    return _known(run, key, _figure(traces, curves))


def _ratio(run: Run) -> Chart | None:
    names = [name for name in ("max", "mean", "min") if run.has(f"actor/seq_ratio/{name}")]
    if not names:
        return None
    curves = [run.curves[f"actor/seq_ratio/{name}"] for name in names]
    traces = [_line(curve, name, number) for number, (name, curve) in enumerate(zip(names, curves, strict=True))]
    text = "Largest, mean and smallest sequence ratio before the clip; one is an unchanged policy."
    return Chart("Sequence ratio", text, _figure(traces, curves, legend=True, decimals=True))


def _time(run: Run) -> Chart | None:
    phases = {
        name.removeprefix("timing_s/"): curve
        for name, curve in run.curves.items()
        if name.startswith("timing_s/") and name != "timing_s/step" and curve.finite and sum(curve.finite) > 0
    }
    if not phases:
        return None
    largest = sorted(phases, key=lambda name: -sum(phases[name].finite))
    steps = sorted({step for curve in phases.values() for step in curve.steps})
    traces = []
    for number, name in enumerate(largest):
        at = dict(zip(phases[name].steps, phases[name].values, strict=True))
        seconds = [at.get(step, 0.0) for step in steps]
        line = _line(Curve(tuple(steps), tuple(seconds)), name, number)
        traces.append({**line, "stackgroup": "time", "line": {"width": 0.5, "color": line["line"]["color"]}})
    text = "Seconds of each step by phase, stacked. The largest area is what to speed up first."
    return Chart("Where the time goes", text, _figure(traces, [], legend=True, unit=" s"))


def _throughput(run: Run) -> Chart | None:
    if not run.has("perf/throughput"):
        return None
    curve = run.curves["perf/throughput"]
    text = "Tokens of prompts and responses per second and device, over the whole step."
    return Chart("Throughput", text, _figure(_with_smooth(curve, "tokens per second"), [curve]))


def smoothed(curve: Curve) -> Curve:
    """The running mean of a long curve; a short one as it is."""
    if len(curve.values) < _SMOOTH_FROM:
        return curve
    reach = max(1, round(_SMOOTH_SHARE * len(curve.values)))
    means = []
    for position in range(len(curve.values)):
        near = [v for v in curve.values[max(0, position - reach) : position + reach + 1] if math.isfinite(v)]
        means.append(mean(near) if near else math.nan)
    return Curve(curve.steps, tuple(means))


def _with_smooth(curve: Curve, name: str) -> list[dict[str, Any]]:
    """A long curve as its running mean over the pale figures of each step; a short one as it is."""
    if len(curve.values) < _SMOOTH_FROM:
        return [_line(curve, name, 0, "lines+markers")]
    raw = _line(curve, f"{name}, each step", 0)
    return [{**raw, "opacity": 0.3, "line": {**raw["line"], "width": 1}}, _line(smoothed(curve), name, 0)]


def _line(curve: Curve, name: str, number: int, mode: str = "lines") -> dict[str, Any]:
    parts = min(_MAX_POINTS, len(curve.values))
    bounds = [len(curve.values) * part // parts for part in range(parts + 1)]
    cuts = [slice(start, end) for start, end in pairwise(bounds)]
    means = [mean(curve.values[cut]) for cut in cuts]
    color = COLORS[number % len(COLORS)]
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "x": [curve.steps[cut][-1] for cut in cuts],
        "y": [float(f"{value:.6g}") if math.isfinite(value) else None for value in means],
        "line": {"color": color, "width": 2.25},
        "marker": {"color": color, "size": 6},
    }


def _figure(
    traces: Sequence[Mapping[str, Any]],
    curves: Sequence[Curve],
    band: Band | None = None,
    legend: bool = False,
    percent: bool = False,
    decimals: bool = False,
    unit: str = "",
) -> dict[str, Any]:
    """Traces and layout; colours of text and grid are the page's, set where it is shown.

    Args:
        curves: what the vertical axis must hold; without any it is left to plotly.
        band: the healthy range, drawn pale.
        legend: whether the traces' names are shown.
        percent: whether figures are shares to be shown in per cent.
        decimals: whether the axis tells small differences from one.
        unit: of the vertical axis.
    """
    axis: dict[str, Any] = {"ticksuffix": unit, "rangemode": "tozero" if not curves else "normal", "automargin": True}
    if percent:
        axis["tickformat"] = ".0%"
    elif decimals:
        axis["tickformat"] = ".5~f"
    layout: dict[str, Any] = {"yaxis": axis, "showlegend": legend}
    values = [value for curve in curves for value in curve.finite]
    if values:
        low, high = min(values), max(values)
        margin = 0.08 * (high - low) or 0.1 * abs(high) or 0.1
        # Shares and lengths cannot be negative: no empty strip below zero.
        axis["range"] = bottom, top = [
            low - margin if low < 0 or low > margin else min(0.0, -0.02 * high),
            high + margin,
        ]
        if band is not None and max(band.low, bottom) < min(band.high, top):
            edges = {"y0": max(band.low, bottom), "y1": min(band.high, top)}
            layout["shapes"] = [
                {"type": "rect", "xref": "paper", "x0": 0, "x1": 1, **edges}
                | {"fillcolor": _BAND_FILL, "line": {"width": 0}, "layer": "below"}
            ]
    return {"data": list(traces), "layout": layout}
