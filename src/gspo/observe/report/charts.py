"""The report's charts: which there are, and what the reader needs to know of each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from gspo.observe.report.meanings import MEANINGS, Meaning
from gspo.observe.report.plots import COLORS, Area, Line, Mark, Plot, line_of, thinned
from gspo.observe.report.ranges import CLIP_FRACTIONS, band_in_force, healthy_words
from gspo.observe.report.run import Curve, Run, mean

__all__ = ["Chart", "chart_groups", "smoothed"]

_SMOOTH_FROM = 24  # shorter curves are drawn as they are
_SMOOTH_SHARE = 0.04  # of the curve, on each side of a point
_GREEN, _RED, _GREY = COLORS[2], COLORS[4], COLORS[7]
_CHANCE = math.log(2)


@dataclass(frozen=True)
class Chart:
    """One plot. `key` is its metric in MEANINGS and its status' source, or empty."""

    title: str
    text: str
    plot: Plot
    key: str = ""
    healthy: str = ""

    @property
    def meaning(self) -> Meaning | None:
        return MEANINGS.get(self.key)


def chart_groups(run: Run) -> list[tuple[str, list[Chart]]]:
    """The charts that the run has metrics for, in named groups."""
    groups = {
        "Learning": [
            _accuracy(run),
            _lines(run, "val-aux/gad/rouge_l", [("val-aux/gad/rouge_l", "ROUGE-L")]),
            _spread(run, "critic/score"),
            *(_single(run, f"{split}/loss") for split in ("train", "val")),
            _signal(run),
        ],
        "Length": [_spread(run, "response_length"), _single(run, "response_length/clip_ratio")],
        "Policy": [
            *(_single(run, name) for name in CLIP_FRACTIONS),
            _ratio(run),
            *(_single(run, f"actor/{name}") for name in ("ppo_kl", "kl_loss", "entropy", "grad_norm")),
        ],
        "Discriminator": _discriminator(run),
        "Critic": [_single(run, f"critic/{name}") for name in ("vf_explained_var", "vf_loss")],
        "Time": [_time(run), _throughput(run)],
    }
    return [(name, found) for name, charts in groups.items() if (found := [chart for chart in charts if chart])]


def _known(run: Run, key: str, plot: Plot) -> Chart:
    meaning = MEANINGS[key]
    return Chart(meaning.label, meaning.text, plot, key, healthy_words(run, key))


def _marks(run: Run) -> list[Mark]:
    """Where a stage of GAD begins, the first one aside."""
    return [Mark(stage.first, stage.name) for stage in run.stages[1:]]


def _accuracy(run: Run) -> Chart | None:
    curves = {
        name.removeprefix("val-core/").replace("/acc/", " "): curve
        for name, curve in run.curves.items()
        if name.startswith("val-core/") and "/acc/" in name and run.has(name)
    }
    if not curves:
        return None
    source = next(iter(run.held_out), "") if len(run.held_out) == 1 else ""
    lines = [
        line_of(curve, name.removeprefix(f"{source} "), number, dots=True)
        for number, (name, curve) in enumerate(curves.items())
    ]
    return _known(run, "held-out", Plot(lines, legend=True, percent=True, marks=_marks(run)))


def _single(run: Run, key: str) -> Chart | None:
    if not run.has(key) or (key in CLIP_FRACTIONS and not _can_clip(run)):
        return None
    curve = run.clip_curve(key) if key in CLIP_FRACTIONS else run.curves[key]
    if not curve.finite:
        return None
    band = band_in_force(run, key)
    edges = None if band is None else (band.low, band.high)
    return _known(run, key, Plot(_with_smooth(curve, MEANINGS[key].label), band=edges, marks=_marks(run)))


def _can_clip(run: Run) -> bool:
    """Whether a ratio can leave one, so that there is something to see of it."""
    return run.updates_per_rollout() != 1 and run.loss.clip is not None


def _lines(
    run: Run, key: str, named: Sequence[tuple[str, str]], level: tuple[float, str] | None = None, percent: bool = False
) -> Chart | None:
    """Several metrics on one pair of axes, those that the run has."""
    found = [(run.curves[name], label) for name, label in named if run.has(name)]
    if not found:
        return None
    lines = [line_of(smoothed(curve), label, number, dots=True) for number, (curve, label) in enumerate(found)]
    band = band_in_force(run, key)
    edges = None if band is None else (band.low, band.high)
    plot = Plot(lines, edges, level, _marks(run), legend=len(lines) > 1, percent=percent)
    return _known(run, key, plot)


def _discriminator(run: Run) -> list[Chart | None]:
    accuracy = [
        ("critic/d_acc", "training"),
        ("val-aux/gad/d_acc", "held-out"),
        ("critic/length_acc", "length alone"),
        ("critic/eos_acc", "end token alone"),
    ]
    scores = [("critic/teacher_value_mean", "teacher"), ("critic/student_value_mean", "student")]
    return [
        _lines(run, "critic/d_acc", accuracy, (0.5, "guessing"), percent=True),
        _lines(run, "critic/d_loss", [("critic/d_loss", "training")], (_CHANCE, "guessing, log 2")),
        _lines(run, "critic/margin", scores),
    ]


def _signal(run: Run) -> Chart | None:
    """Groups without a signal, the solved and the hopeless ones stacked where they are told apart."""
    if not run.compares_groups or not any(
        run.curves["group/zero_spread"].finite if run.has("group/zero_spread") else []
    ):
        return None
    if not run.counts_solved:
        return _single(run, "group/zero_spread")
    kinds = (("all_right", "solved by every response", _GREEN), ("all_wrong", "by none", _RED))
    below = [0.0] * len(run.curves["group/zero_spread"].steps)
    shapes: list[Line | Area] = []
    steps: list[float] = []
    for name, label, color in kinds:
        steps, values = thinned(smoothed(run.curves[f"group/{name}"]))
        below = below[: len(steps)]
        above = [low + (value or 0.0) for low, value in zip(below, values, strict=True)]
        shapes.append(Area(label, steps, below, above, color, is_sum=True))
        below = above
    total = thinned(smoothed(run.curves["group/zero_spread"]))[1]
    other = [max(low, value or 0.0) for low, value in zip(below, total, strict=True)]
    if max(high - low for low, high in zip(below, other, strict=True)) > 0.005:
        shapes.append(Area("equal otherwise", steps, below, other, _GREY, is_sum=True))
    plot = Plot(shapes, legend=True, percent=True, marks=_marks(run), from_zero=True)
    return _known(run, "group/zero_spread", plot)


def _spread(run: Run, prefix: str) -> Chart | None:
    """The mean, over a pale area from the smallest to the largest."""
    key = f"{prefix}/mean"
    if not run.has(key):
        return None
    shapes: list[Line | Area] = list(_with_smooth(run.curves[key], "mean"))
    low, high = (run.curves.get(f"{prefix}/{end}", Curve((), ())) for end in ("min", "max"))
    if low.finite and low.steps == high.steps and len(low.finite) == len(high.finite) == len(low.steps):
        (x, bottom), (_, top) = thinned(low), thinned(high)
        shapes.insert(0, Area("lowest to highest", x, [v or 0.0 for v in bottom], [v or 0.0 for v in top]))
    plot = Plot(shapes, marks=_marks(run))
    if key == "critic/score/mean" and run.has_discriminator:
        text = "Mean score of the student's responses. It moves with the discriminator: no measure of progress."
        return Chart("Discriminator's score", text, plot)
    return _known(run, key, plot)


def _ratio(run: Run) -> Chart | None:
    names = [name for name in ("max", "mean", "min") if run.has(f"actor/seq_ratio/{name}")]
    if not names or not _can_clip(run):
        return None
    shown = {"max": "largest", "mean": "mean", "min": "smallest"}
    lines = [line_of(run.curves[f"actor/seq_ratio/{name}"], shown[name], i) for i, name in enumerate(names)]
    low, high = run.clip_range or (0.0, 0.0)
    text = (
        "Largest, mean and smallest sequence ratio before the clip; one is an unchanged policy. The band is the clip."
    )
    plot = Plot(lines, band=(1 - low, 1 + high), legend=True, marks=_marks(run))
    return Chart("Sequence ratio", text, plot)


def _time(run: Run) -> Chart | None:
    phases = {
        name.removeprefix("timing_s/"): curve
        for name, curve in run.curves.items()
        if name.startswith("timing_s/") and name != "timing_s/step" and curve.finite and sum(curve.finite) > 0
    }
    if not phases:
        return None
    largest = sorted(phases, key=lambda name: -sum(phases[name].finite))
    steps = tuple(sorted({step for curve in phases.values() for step in curve.steps}))
    shapes: list[Line | Area] = []
    below: list[float] = []
    for number, name in enumerate(largest):
        at = dict(phases[name].pairs())
        x, values = thinned(Curve(steps, tuple(at.get(step, 0.0) for step in steps)))
        below = below or [0.0] * len(x)
        above = [low + (value or 0.0) for low, value in zip(below, values, strict=True)]
        shapes.append(Area(name, x, below, above, COLORS[number % len(COLORS)], is_sum=True))
        below = above
    text = "Seconds of each step by phase, stacked. The largest area is what to speed up first."
    return Chart("Where the time goes", text, Plot(shapes, legend=True, unit="seconds", from_zero=True))


def _throughput(run: Run) -> Chart | None:
    if not run.has("perf/throughput"):
        return None
    text = "Tokens of prompts and responses per second and device, over the whole step."
    return Chart("Throughput", text, Plot(_with_smooth(run.curves["perf/throughput"], "tokens per second")))


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


def _with_smooth(curve: Curve, name: str) -> list[Line]:
    """A long curve as its running mean over the pale figures of each step; a short one as it is."""
    if len(curve.values) < _SMOOTH_FROM:
        return [line_of(curve, name, dots=True)]
    return [line_of(curve, name, pale=True), line_of(smoothed(curve), name)]
