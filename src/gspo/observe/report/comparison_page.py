"""The page that lays variants of a run side by side: a line of means over seeds, within a band from least to most."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from gspo.observe.report.build import render_page
from gspo.observe.report.charts import smoothed
from gspo.observe.report.comparison import FIGURES, Variant, held_out_curve, over_seconds
from gspo.observe.report.numbers import plain
from gspo.observe.report.plots import COLORS, Area, Line, Plot
from gspo.observe.report.run import Curve, Run, mean

__all__ = ["build_comparison", "cell", "comparison_plots"]

Reader = Callable[[Run], Curve | None]

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
    charts = comparison_plots(variants)
    page = render_page(
        "comparison.html.jinja",
        title=title,
        facts=[("variants", str(len(variants))), ("seeds", ", ".join(map(str, variants[0].runs)))],
        header=[figure.label for figure in FIGURES.values()],
        notes=[(figure.label, figure.text) for figure in FIGURES.values()],
        rows=[(v.name, settings.get(v.name, ""), [cell(v, key) for key in FIGURES]) for v in variants],
        charts=[(name, text) for name, text, _ in charts],
        plots=[plot for _, _, plot in charts],
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
    return " ± ".join(plain(value) for value in (center, spread) if value is not None)


def comparison_plots(variants: Sequence[Variant]) -> list[tuple[str, str, Plot]]:
    """Title, text and plot of every chart that some run has the metric for."""
    learning: tuple[tuple[str, str, Reader, bool], ...] = (
        ("Held-out accuracy", "Mean over data sources.", held_out_curve, True),
        ("Reward", "Mean score of a step's responses.", partial(_smooth, name="critic/score/mean"), False),
    )
    charts: list[tuple[str, str, Plot | None]] = []
    for title, text, read, percent in learning:
        charts.append((f"{title} per step", text, _plot(variants, read, percent=percent)))
        charts.append((f"{title} per second of training", text, _time_plot(variants, read, percent)))
    for title, text, name, log in _POLICY_CHARTS:
        charts.append((title, text, _plot(variants, partial(_smooth, name=name), log=log)))
    return [(title, text, plot) for title, text, plot in charts if plot is not None]


def _smooth(run: Run, name: str) -> Curve | None:
    return smoothed(run.curves[name]) if run.has(name) else None


def _plot(variants: Sequence[Variant], read: Reader, *, percent: bool = False, log: bool = False) -> Plot | None:
    """Means and bands over the steps: at each one, of the runs that logged it."""
    shapes: list[Line | Area] = []
    for number, variant in enumerate(variants):
        columns: dict[float, list[float]] = {}
        for run in variant.runs.values():
            for step, value in (read(run) or Curve((), ())).pairs():
                if math.isfinite(value):
                    columns.setdefault(step, []).append(value)
        places = sorted(columns)
        shapes += _band(variant.name, number, places, [columns[place] for place in places], log)
    return Plot(shapes, legend=True, percent=percent, log=log) if shapes else None


def _time_plot(variants: Sequence[Variant], read: Reader, percent: bool) -> Plot | None:
    """The same over seconds, each run on straight lines between its points, while every seed of a variant runs."""
    shapes: list[Line | Area] = []
    for number, variant in enumerate(variants):
        curves = [(run, read(run)) for run in variant.runs.values()]
        lines = [line for run, curve in curves if curve is not None and (line := over_seconds(run, curve))[0]]
        if not lines:
            continue
        start, end = max(at[0] for at, _ in lines), min(at[-1] for at, _ in lines)
        places = np.linspace(start, max(start, end), _TIME_POINTS)
        values = np.stack([np.interp(places, at, found) for at, found in lines])
        shapes += _band(variant.name, number, places.tolist(), values.T.tolist(), log=False)
    return Plot(shapes, legend=True, percent=percent, x_title="seconds of training", whole=False) if shapes else None


def _band(
    name: str, number: int, places: Sequence[float], columns: Sequence[Sequence[float]], log: bool
) -> list[Line | Area]:
    """The line of means; behind it, where there are several seeds, the area from the least to the most."""
    if not places:
        return []
    color = COLORS[number % len(COLORS)]
    means = [mean(column) for column in columns]
    shown = [float(f"{value:.6g}") if value > 0 or not log else None for value in means]
    line = Line(name, places, shown, color)
    if max(map(len, columns)) == 1 or log:  # on a logarithmic axis a least of zero has no place
        return [line]
    low, high = ([float(f"{end(column):.6g}") for column in columns] for end in (min, max))
    return [Area(f"{name}, least to most", places, low, high, color), line]
