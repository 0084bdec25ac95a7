"""What happened in a run, in words: a verdict on each metric that has one, from its band or from its course."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from gspo.observe.report.meanings import MEANINGS, Meaning, Status
from gspo.observe.report.run import Curve, Run
from gspo.observe.sparkline import quantity

__all__ = ["Verdict", "read_run"]

_RECENT_SHARE = 0.25  # a band judges the median of the last quarter
_FEW_STEPS = 8  # a course is not judged on fewer
_ACCURACY_STEP = 0.01  # a change of held-out accuracy below this is none
_FALL_FROM_BEST = 0.05
_ENTROPY_WATCH, _ENTROPY_PROBLEM = 0.33, 0.1  # of the start
_SPIKE = 5.0  # times the median
_LENGTH_GROWTH = 1.5


@dataclass(frozen=True)
class Verdict:
    """The state of one metric.

    Attributes:
        key: its key in MEANINGS.
        status: healthy, watch, problem, or unknown where nothing can be said.
        text: what was seen, in a sentence.
        value: its figure, as text.
    """

    key: str
    status: Status
    text: str
    value: str

    @property
    def meaning(self) -> Meaning:
        return MEANINGS[self.key]


def read_run(run: Run) -> list[Verdict]:
    """A verdict for each metric of MEANINGS that the run has, in their order."""
    verdicts = []
    if run.held_out:
        verdicts.append(_held_out(run))
    for key, meaning in MEANINGS.items():
        if key not in run.curves or (key == "group/zero_spread" and not run.compares_groups):
            continue
        curve = run.curves[key]
        if len(curve.finite) < len(curve.values):
            bad = next(step for step, value in zip(curve.steps, curve.values, strict=True) if not math.isfinite(value))
            text = f"It was not a finite number, first at step {bad}: the run diverged or a reward was not finite."
            verdicts.append(Verdict(key, "problem", text, "not finite"))
        elif key in _COURSES:
            verdicts.append(_COURSES[key](run, curve))
        elif meaning.band_for(run.loss) is not None:
            verdicts.append(_banded(run, key, curve))
    return verdicts


def _banded(run: Run, key: str, curve: Curve) -> Verdict:
    band = MEANINGS[key].band_for(run.loss)
    assert band is not None
    value = median(curve.values[-math.ceil(_RECENT_SHARE * len(curve.values)) :])
    shown = quantity(value)
    clip = key in ("actor/pg_clipfrac", "actor/seq_clipfrac")
    if clip and run.updates_per_rollout() == 1:
        text = "One optimizer step per rollout: the ratio is one and no clip can act. This is by construction."
        return Verdict(key, "unknown", text, shown)
    status = band.status(value)
    if status == "healthy":
        return Verdict(key, status, f"Lately {shown}.", shown)
    if clip and value < band.low and run.loss.sequence_clip:
        text = f"Lately {shown}: the clip hardly acts. A sequence ratio needs a clip range near 3e-4, not 0.2."
        return Verdict(key, status, text, shown)
    return Verdict(key, status, f"Lately {shown}, outside of {band}.", shown)


def _held_out(run: Run) -> Verdict:
    """Judges the source that did worst, and tells all of them."""
    parts: list[tuple[Status, str]] = []
    values = []
    for source, curve in run.held_out.items():
        first, last, best = curve.finite[0], curve.finite[-1], max(curve.finite)
        values.append(f"{100 * last:.1f} %")
        if len(curve.finite) < 2:
            parts.append(("unknown", f"{source}: {100 * last:.1f} %, measured once."))
            continue
        course = f"from {100 * first:.1f} % to {100 * last:.1f} %"
        if last < first - _ACCURACY_STEP:
            parts.append(("problem", f"{source}: fell {course}."))
        elif last < best - _FALL_FROM_BEST:
            peak = curve.steps[curve.values.index(best)]
            parts.append(("watch", f"{source}: went {course}, below its best of {100 * best:.1f} % at step {peak}."))
        elif last <= first + _ACCURACY_STEP:
            parts.append(("watch", f"{source}: hardly moved, {course}."))
        else:
            parts.append(("healthy", f"{source}: rose {course}."))
    order: list[Status] = ["problem", "watch", "healthy", "unknown"]
    worst = min((status for status, _ in parts), key=order.index)
    return Verdict("held-out", worst, " ".join(text for _, text in parts), ", ".join(values))


def _reward(run: Run, curve: Curve) -> Verdict:
    start, end = curve.ends()
    course = f"from {quantity(start)} to {quantity(end)}"
    if run.has("critic/d_acc"):
        text = f"Went {course}. A discriminator's score moves with its updates: it is no measure of progress."
        return Verdict("critic/score/mean", "unknown", text, quantity(end))
    if len(curve.values) < _FEW_STEPS:
        return Verdict("critic/score/mean", "unknown", f"Went {course}; too few steps to judge.", quantity(end))
    # The noise of the two means, from what differs between neighbouring steps.
    jumps = [later - earlier for earlier, later in pairwise(curve.values)]
    part = max(1, round(0.1 * len(curve.values)))
    noise = math.sqrt(sum(jump * jump for jump in jumps) / len(jumps) / part)
    if end < start - 2 * noise:
        return Verdict("critic/score/mean", "problem", f"Fell {course}.", quantity(end))
    if end <= start + noise:
        return Verdict("critic/score/mean", "watch", f"Went {course}: no rise above the noise.", quantity(end))
    return Verdict("critic/score/mean", "healthy", f"Rose {course}.", quantity(end))


def _length(run: Run, curve: Curve) -> Verdict:
    start, end = curve.ends()
    text = f"Went from {quantity(start)} to {quantity(end)} tokens."
    grown = len(curve.values) >= _FEW_STEPS and end > _LENGTH_GROWTH * start
    gains = [accuracy.finite[-1] - accuracy.finite[0] for accuracy in run.held_out.values()]
    if grown and gains and max(gains) <= _ACCURACY_STEP:
        text = f"{text[:-1]}, and held-out accuracy did not rise with it."
        return Verdict("response_length/mean", "watch", text, quantity(end))
    return Verdict("response_length/mean", "healthy", text, quantity(end))


def _entropy(_: Run, curve: Curve) -> Verdict:
    start, end = curve.ends()
    text, share = f"Went from {quantity(start)} to {quantity(end)} nats.", end / start if start > 0 else 1.0
    status: Status = "problem" if share < _ENTROPY_PROBLEM else "watch" if share < _ENTROPY_WATCH else "healthy"
    return Verdict("actor/entropy", status, text, quantity(end))


def _grad_norm(_: Run, curve: Curve) -> Verdict:
    middle, largest = median(curve.values), max(curve.values)
    zeros = sum(value == 0 for value in curve.values)
    if zeros:
        text = f"Exactly zero at {zeros} of {len(curve.values)} steps: no group of those batches had a signal."
        return Verdict("actor/grad_norm", "watch", text, quantity(middle))
    if largest > _SPIKE * middle:
        step = curve.steps[curve.values.index(largest)]
        text = f"Median {quantity(middle)}, with a spike of {quantity(largest)} at step {step}."
        return Verdict("actor/grad_norm", "watch", text, quantity(middle))
    return Verdict("actor/grad_norm", "healthy", f"Median {quantity(middle)}, no spikes.", quantity(middle))


_COURSES: dict[str, Callable[[Run, Curve], Verdict]] = {
    "critic/score/mean": _reward,
    "response_length/mean": _length,
    "actor/entropy": _entropy,
    "actor/grad_norm": _grad_norm,
}
