"""The page that lays variants of a run side by side: a line of means over seeds, within a band from least to most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from gspo.observe.report.build import render_page
from gspo.observe.report.charts import COLORS, smoothed
from gspo.observe.report.comparison import FIGURES, Variant, held_out_curve, over_seconds
from gspo.observe.report.run import Curve, Run
from gspo.observe.sparkline import quantity

__all__ = ["build_comparison", "cell", "comparison_figures"]

# Places over time at which runs of different speed are compared: more than a chart's width tells apart.
_TIME_POINTS = 200
# Title, text, metric, logarithmic axis.
_POLICY_CHARTS = (
    ("Clip fraction", "Share of clipped tokens; a step without any leaves a gap.", "actor/pg_clipfrac", True),
    ("Sequence clip fraction", "Share of clipped responses.", "actor/seq_clipfrac", True),
    ("KL", "Divergence from the policy that sampled.", "actor/ppo_kl", False),
    ("KL to the reference", "Divergence from the reference model.", "actor/kl_loss", False),
    ("Entropy", "Nats a token.", "actor/entropy", False),
    ("Gradient norm", "Before clipping.", "actor/grad_norm", False),
    ("Response length", "Tokens.", "response_length/mean", False),
)


def build_comparison(path: Path, title: str, variants: Sequence[Variant], settings: dict[str, str]) -> Path:
    """Writes the page, one file with everything in it.

    Args:
        path: the file.
        title: its heading.
        variants: what is compared.
        settings: what makes each variant, in the user's words.
    """
    charts = comparison_figures(variants)
    page = render_page(
        "comparison.html.jinja",
        title=title,
        facts=[("variants", str(len(variants))), ("seeds", ", ".join(map(str, variants[0].runs)))],
        header=[figure.label for figure in FIGURES.values()],
        notes=[(figure.label, figure.text) for figure in FIGURES.values()],
        rows=[(v.name, settings.get(v.name, ""), [cell(v, key) for key in FIGURES]) for v in variants],
        charts=[(name, text) for name, text, _ in charts],
        figures=[figure for _, _, figure in charts],
    )
    path.write_text(page, encoding="utf-8", errors="replace")
    return path


def cell(variant: Variant, key: str) -> str:
    """A figure as text: its mean, and its spread where there are several seeds."""
    center, spread = variant.mean(key), variant.spread(key)
    if center is None:
        return "-"
    if FIGURES[key].percent:
        digits = 1 if abs(center) >= 0.01 or center == 0 else 3  # clip fractions are thousandths
        return " ± ".join(f"{100 * value:.{digits}f} %" for value in (center, spread) if value is not None)
    return " ± ".join(quantity(value) for value in (center, spread) if value is not None)


def comparison_figures(variants: Sequence[Variant]) -> list[tuple[str, str, dict[str, Any]]]:
    """Title, text and plotly figure of every chart that some run has the metric for."""
    learning: tuple[tuple[str, str, Callable[[Run], Curve | None], dict[str, Any]], ...] = (
        (
            "Held-out accuracy",
            "Mean over data sources.",
            held_out_curve,
            {"tickformat": ".0%", "rangemode": "nonnegative"},
        ),
        ("Reward", "Mean score of a step's responses.", partial(_smooth, name="critic/score/mean"), {}),
    )
    charts: list[tuple[str, str, dict[str, Any] | None]] = []
    for title, text, read, axis in learning:
        charts.append((f"{title} per step", text, _figure(variants, read, axis)))
        charts.append((f"{title} per second of training", text, _time_figure(variants, read, axis)))
    for title, text, name, log in _POLICY_CHARTS:
        axis = {"type": "log", "dtick": "D2"} if log else {}
        charts.append((title, text, _figure(variants, partial(_smooth, name=name), axis)))
    return [(title, text, figure) for title, text, figure in charts if figure is not None]


def _smooth(run: Run, name: str) -> Curve | None:
    return smoothed(run.curves[name]) if run.has(name) else None


def _figure(
    variants: Sequence[Variant], read: Callable[[Run], Curve | None], axis: dict[str, Any]
) -> dict[str, Any] | None:
    """Means and bands over the steps: at each one, of the runs that logged it."""
    traces = []
    for number, variant in enumerate(variants):
        columns: dict[float, list[float]] = {}
        for run in variant.runs.values():
            curve = read(run) or Curve((), ())
            for step, value in zip(curve.steps, curve.values, strict=True):
                if math.isfinite(value):
                    columns.setdefault(step, []).append(value)
        places = sorted(columns)
        traces += _band(variant.name, number, places, [columns[place] for place in places], "type" in axis)
    return _with_layout(traces, axis)


def _time_figure(
    variants: Sequence[Variant], read: Callable[[Run], Curve | None], axis: dict[str, Any]
) -> dict[str, Any] | None:
    """The same over seconds, each run on straight lines between its points, while every seed of a variant runs."""
    traces = []
    for number, variant in enumerate(variants):
        curves = [(run, read(run)) for run in variant.runs.values()]
        lines = [line for run, curve in curves if curve is not None and (line := over_seconds(run, curve))[0]]
        if not lines:
            continue
        start, end = max(at[0] for at, _ in lines), min(at[-1] for at, _ in lines)
        places = np.linspace(start, max(start, end), _TIME_POINTS)
        values = np.stack([np.interp(places, at, found) for at, found in lines])
        traces += _band(variant.name, number, places.tolist(), values.T.tolist(), log=False)
    figure = _with_layout(traces, axis)
    return None if figure is None else {**figure, "unit": "seconds of training"}


def _with_layout(traces: list[dict[str, Any]], axis: dict[str, Any]) -> dict[str, Any] | None:
    return {"data": traces, "layout": {"yaxis": {"automargin": True, **axis}, "showlegend": True}} if traces else None


def _band(
    name: str, number: int, places: Sequence[float], columns: Sequence[Sequence[float]], log: bool
) -> list[dict[str, Any]]:
    """The line of means; behind it, where there are several seeds, the band from the least to the most."""
    if not places:
        return []

    def trace(values: Sequence[float], **more: Any) -> dict[str, Any]:
        shown = [float(f"{value:.6g}") if value > 0 or not log else None for value in values]
        return {"type": "scatter", "x": list(places), "y": shown, "legendgroup": name, **more}

    color = COLORS[number % len(COLORS)]
    line = {"color": color, "width": 2.25}
    means = trace([sum(column) / len(column) for column in columns], mode="lines", name=name, line=line)
    if max(map(len, columns)) == 1:
        return [means]
    edge = {"mode": "lines", "line": {"width": 0, "color": color}, "showlegend": False, "hoverinfo": "skip"}
    low = trace([min(column) for column in columns], name=f"{name}, least", **edge)
    fill = {
        "fill": "tonexty",
        "fillcolor": f"rgba({', '.join(str(int(color[i : i + 2], 16)) for i in (1, 3, 5))}, 0.15)",
    }
    return [low, trace([max(column) for column in columns], name=f"{name}, most", **edge, **fill), means]
