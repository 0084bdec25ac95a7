"""What several variants of a run reached, each with several seeds: figures of each run, their means and spreads."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from gspo.observe.report.run import Curve, Run, mean

__all__ = ["FIGURES", "Figure", "Variant", "held_out_curve", "over_seconds", "seconds_at"]


@dataclass(frozen=True)
class Figure:
    """One column of the comparison.

    Attributes:
        key: its name in compare.json.
        label: its name in tables.
        text: what it is.
        percent: whether it is shown in per cent.
        read: its value for one run; None where the run does not have it.
    """

    key: str
    label: str
    text: str
    percent: bool
    read: Callable[[Run], float | None]


@dataclass(frozen=True)
class Variant:
    """Runs that differ in their seed only."""

    name: str
    runs: Mapping[int, Run]

    def figures(self, key: str) -> list[float]:
        """One figure of every run that has it, in the order of the seeds."""
        values = [FIGURES[key].read(run) for run in self.runs.values()]
        return [value for value in values if value is not None]

    def mean(self, key: str) -> float | None:
        values = self.figures(key)
        return mean(values) if values else None

    def spread(self, key: str) -> float | None:
        """The sample standard deviation over seeds; None with fewer than two."""
        values = self.figures(key)
        return statistics.stdev(values) if len(values) > 1 else None


def held_out_curve(run: Run) -> Curve | None:
    """Held-out accuracy, the mean over data sources, at the steps that measured all of them."""
    curves = [dict(zip(curve.steps, curve.values, strict=True)) for curve in run.held_out.values()]
    if not curves:
        return None
    steps = [step for step in curves[0] if all(step in curve for curve in curves)]
    return Curve(tuple(steps), tuple(mean([curve[step] for curve in curves]) for step in steps))


def seconds_at(run: Run) -> dict[int, float]:
    """Seconds of training, validation left out, that had passed at the end of each step; none at step 0."""
    if not run.has("timing_s/step"):
        return {}
    curve = run.curves["timing_s/step"]
    return {0: 0.0, **dict(zip(curve.steps, accumulate(curve.values), strict=True))}


def over_seconds(run: Run, curve: Curve) -> tuple[list[float], list[float]]:
    """A curve's finite values over seconds of training: (seconds, values)."""
    seconds = seconds_at(run)
    points = [(seconds[s], v) for s, v in zip(curve.steps, curve.values, strict=True) if s in seconds]
    kept = [(at, value) for at, value in points if math.isfinite(at) and math.isfinite(value)]
    return [at for at, _ in kept], [value for _, value in kept]


def _held_out(place: int) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        curve = held_out_curve(run)
        return curve.finite[place] if curve is not None and curve.finite else None

    return read


def _of_curve(name: str, summarise: Callable[[Curve], float]) -> Callable[[Run], float | None]:
    return lambda run: summarise(run.curves[name]) if run.has(name) else None


def _mean(curve: Curve) -> float:
    return mean(curve.finite)


def _last_tenth(curve: Curve) -> float:
    return curve.ends()[1]


def _largest(curve: Curve) -> float:
    return max(curve.finite)


def _speed(curve: Curve) -> float:
    return len(curve.finite) / sum(curve.finite)


def _by_key(figures: Sequence[Figure]) -> dict[str, Figure]:
    return {figure.key: figure for figure in figures}


FIGURES: Mapping[str, Figure] = _by_key(
    [
        Figure("accuracy_start", "accuracy, start", "held-out accuracy of the first validation", True, _held_out(0)),
        Figure("accuracy_end", "accuracy, end", "held-out accuracy of the last validation", True, _held_out(-1)),
        Figure("reward", "reward", "last tenth of the steps", False, _of_curve("critic/score/mean", _last_tenth)),
        Figure("steps_per_second", "steps/s", "training alone", False, _of_curve("timing_s/step", _speed)),
        Figure("clip_fraction", "clipped", "mean share of clipped tokens", True, _of_curve("actor/pg_clipfrac", _mean)),
        Figure("kl", "KL", "mean divergence from the policy that sampled", False, _of_curve("actor/ppo_kl", _mean)),
        Figure("entropy", "entropy", "nats a token, last tenth", False, _of_curve("actor/entropy", _last_tenth)),
        Figure("grad_norm", "grad norm", "mean before clipping", False, _of_curve("actor/grad_norm", _mean)),
        Figure("grad_norm_max", "largest", "largest gradient norm", False, _of_curve("actor/grad_norm", _largest)),
    ]
)
