"""A metric's course through a run: when it left its healthy range, on which side, and whether it came back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from gspo.methods import Band
from gspo.observe.report.numbers import plain, share
from gspo.observe.report.run import Curve

__all__ = ["Course", "Side", "Status", "Trend", "follow", "recent", "rise"]

Status = Literal["healthy", "watch", "problem", "unknown"]
Side = Literal["low", "high"]

_RECENT_SHARE = 0.25  # the median of the last quarter is where it is now
_SMOOTH_SHARE = 0.05  # of the curve, around a point: a single step outside does not count as leaving for good
_FAR = 10.0  # times the bound of a problem: even one such step is one
_OFTEN = 0.05  # of the steps as a problem, to be watched though it is over
_LONG = 0.25  # of the steps outside, to be told though it is over


@dataclass(frozen=True)
class Course:
    """What became of a metric.

    Attributes:
        status: its state, with all steps in view.
        side: on which side it is, or was, outside; None where it kept within.
        text: what was seen, in a sentence.
        value: where it is now.
    """

    status: Status
    side: Side | None
    text: str
    value: float


@dataclass(frozen=True)
class Trend:
    """How a metric without a fixed range went.

    Attributes:
        side: on which side of what is healthy it is; None where it is healthy.
        lever: what to change, where that is not what the side alone says.
    """

    status: Status
    text: str
    value: str
    side: Side | None = None
    lever: str = ""


def recent(curve: Curve) -> float:
    """Where a curve is lately: the median of its last quarter; 0 without values."""
    values = curve.finite
    return median(values[-math.ceil(_RECENT_SHARE * len(values)) :]) if values else 0.0


def rise(curve: Curve) -> float:
    """How far the last tenth of a curve is above its first, in standard deviations of that difference.

    The noise is taken from what differs between neighbouring steps, to which a trend adds next to nothing.
    """
    values = curve.finite
    if len(values) < 2:
        return 0.0
    start, end = curve.ends()
    jumps = [later - earlier for earlier, later in pairwise(values)]
    part = max(1, round(0.1 * len(values)))
    noise = math.sqrt(sum(jump * jump for jump in jumps) / len(jumps) / part) if jumps else 0.0
    return (end - start) / noise if noise > 0 else math.copysign(math.inf, end - start) if end != start else 0.0


def follow(curve: Curve, band: Band, *, lasting: bool = False) -> Course:
    """Judges a curve with at least one value, all of them finite.

    Args:
        curve: the metric.
        band: where it is healthy.
        lasting: whether what is over leaves something behind, as a policy that was moved far does.
    """
    lately = recent(curve)
    now = band.status(lately)
    out = [(step, value) for step, value in curve.pairs() if band.status(value) != "healthy"]
    if now != "healthy":
        side = _side(lately, band)
        bound = band.low if side == "low" else band.high
        words = "below" if side == "low" else "above"
        text = f"Lately {plain(lately)}, {words} {bound:g} {_since(curve, band, side)}."
        return Course(now, side, text, lately)
    if not out:
        return Course("healthy", None, f"Lately {plain(lately)}; within its range at every step.", lately)
    bad = [value for _, value in out if band.status(value) == "problem"]
    worst_step, worst = max(out, key=lambda pair: _distance(pair[1], band))
    side, status = _side(worst, band), _past(worst, len(bad), len(curve.values), band) if lasting else "healthy"
    if status == "healthy" and len(out) < _LONG * len(curve.values):
        text = f"Lately {plain(lately)}; within its range at {share(1 - len(out) / len(curve.values))} of the steps."
        return Course(status, None, text, lately)
    words, end = ("below", "lowest") if side == "low" else ("above", "highest")
    where = f"step {out[0][0]} to step {out[-1][0]}" if len(out) > 1 else f"step {out[0][0]}"
    text = (
        f"Lately {plain(lately)}, within its range; it was {words} it at {_steps(len(out), len(curve.values))} "
        f"({where}; {end} {plain(worst)} at step {worst_step})."
    )
    return Course(status, side, text, lately)


def _past(worst: float, num_bad: int, num_steps: int, band: Band) -> Status:
    """What an excursion that is over leaves behind."""
    bound = band.ceiling if _side(worst, band) == "high" else band.floor
    if math.isfinite(bound) and abs(worst) > _FAR * abs(bound):
        return "problem"
    return "watch" if num_bad and num_bad >= _OFTEN * num_steps else "healthy"


def _since(curve: Curve, band: Band, side: Side) -> str:
    """From when on it has been on that side of its range, by a running median."""
    reach = max(1, round(_SMOOTH_SHARE * len(curve.values))) if len(curve.values) >= 1 / _SMOOTH_SHARE else 0
    smooth = [median(curve.values[max(0, i - reach) : i + reach + 1]) for i in range(len(curve.values))]
    outside = [value < band.low if side == "low" else value > band.high for value in smooth]
    inside = [place for place, out in enumerate(outside) if not out]
    if not inside:
        return "from the start"
    if inside[-1] + 1 == len(smooth):
        return f"at {_steps(sum(outside), len(outside))}, now and then"
    return f"since step {curve.steps[inside[-1] + 1]}"


def _steps(number: int, total: int) -> str:
    return f"{number} of {total} step{'s' * (total != 1)}"


def _side(value: float, band: Band) -> Side:
    return "low" if value < band.low else "high"


def _distance(value: float, band: Band) -> float:
    return max(band.low - value, value - band.high)
