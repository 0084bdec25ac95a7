"""How losses and the discriminator's metrics went: supervised training, and GAD's game between student and teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gspo.observe.report.course import Trend
from gspo.observe.report.findings import Finding
from gspo.observe.report.numbers import plain, share
from gspo.observe.report.run import Curve, Run

__all__ = [
    "discriminator_loss",
    "held_out_loss",
    "overlap",
    "teacher_gap",
    "told_by_end",
    "told_by_length",
    "training_loss",
]

_FEW_STEPS = 8  # a course is not judged on fewer
_SAME = 0.02  # a relative change below this is none
_CHANCE_LOSS = math.log(2)
_GAP_GROWTH, _GAP_CLOSED = 5.0, 0.8  # times the start
_JUDGED_WELL, _NEARLY_AS_WELL = 0.7, 0.02
_OVERLAP_STEP, _FALL_FROM_BEST = 0.01, 0.05
_RATE = "actor_rollout_ref.actor.optim.lr"


def training_loss(run: Run, _: Sequence[Finding]) -> Trend:
    """Cross-entropy on what is learned."""
    return _falls(run.curves["train/loss"], f"a lower {_RATE}")


def held_out_loss(run: Run, _: Sequence[Finding]) -> Trend:
    """Cross-entropy on what is not learned: it rises again where the model learns by heart."""
    curve = run.curves["val/loss"]
    known = [(step, value) for step, value in curve.pairs() if math.isfinite(value)]
    best_step, best = min(known, key=lambda pair: pair[1])
    last = known[-1][1]
    if len(known) > 2 and last > (1 + _SAME) * best and best_step != known[-1][0]:
        text = f"Fell to {plain(best)} at step {best_step}, then rose to {plain(last)}: the model learns by heart."
        return Trend("watch", text, plain(last), "high", f"an end near step {best_step}, or more data")
    return _falls(curve, f"a lower {_RATE}")


def _falls(curve: Curve, lever: str) -> Trend:
    start, end = curve.ends()
    course = f"from {plain(start)} to {plain(end)}"
    if len(curve.finite) < 2:
        return Trend("unknown", f"{plain(end)}, measured once.", plain(end))
    if end > (1 + _SAME) * start:
        return Trend("problem", f"Rose {course}.", plain(end), "high", lever)
    if end > (1 - _SAME) * start and len(curve.finite) >= _FEW_STEPS:
        text = f"Stayed where it was, {course}: it was learned before, or the learning rate is too low."
        return Trend("unknown", text, plain(end))
    return Trend("healthy", f"Fell {course}.", plain(end))


def discriminator_loss(run: Run, _: Sequence[Finding]) -> Trend:
    """Against what a coin would lose."""
    start, end = run.curves["critic/d_loss"].ends()
    text = f"Went from {plain(start)} to {plain(end)}; guessing loses {plain(_CHANCE_LOSS)}."
    if end > 1.5 * _CHANCE_LOSS:
        return Trend(
            "watch", f"{text[:-1]}, so its confident scores are wrong.", plain(end), "high", "a lower critic.optim.lr"
        )
    return Trend("healthy", text, plain(end))


def teacher_gap(run: Run, _: Sequence[Finding]) -> Trend:
    """The gap between the teacher's and the student's scores, over the adversarial stage."""
    curve = run.policy_curve("critic/margin")
    curve = curve if curve.finite else run.curves["critic/margin"]
    start, end = curve.ends()
    text = f"The teacher's score was {plain(start)} above the student's, and is {plain(end)} above it."
    if end < 0:
        return Trend("healthy", f"The student now scores {plain(-end)} above the teacher.", plain(end))
    if len(curve.values) >= _FEW_STEPS and start > 0 and end > _GAP_GROWTH * start and end > 1:
        return Trend("watch", f"{text[:-1]}: the discriminator runs away.", plain(end), "high")
    words = " The student closes in." if end < _GAP_CLOSED * start else ""
    return Trend("healthy", text + words, plain(end))


def told_by_length(run: Run, _: Sequence[Finding]) -> Trend:
    """Whether the discriminator may know no more than the length."""
    return _told_by(run, "critic/length_acc", "the length")


def told_by_end(run: Run, _: Sequence[Finding]) -> Trend:
    """Whether the discriminator may know no more than whether a response ends by itself."""
    return _told_by(run, "critic/eos_acc", "the end token")


def _told_by(run: Run, key: str, sign: str) -> Trend:
    end = run.curves[key].ends()[1]
    accuracy = run.curves["critic/d_acc"].ends()[1] if run.has("critic/d_acc") else 1.0
    text = f"Lately {sign} alone is right in {share(end)} of the pairs, the discriminator in {share(accuracy)}."
    if end < _JUDGED_WELL or end < accuracy - _NEARLY_AS_WELL:
        return Trend("healthy", text, share(end))
    if _succeeds(run):
        return Trend("healthy", f"{text} What it does not see rises all the same.", share(end))
    return Trend("watch", f"{text} It may know no more than {sign}.", share(end), "high")


def _succeeds(run: Run) -> bool:
    """Whether something that the discriminator never sees has risen."""
    curves = [*run.held_out.values(), *([run.curves["val-aux/gad/rouge_l"]] if run.has("val-aux/gad/rouge_l") else [])]
    return any(curve.finite[-1] > curve.finite[0] + _OVERLAP_STEP for curve in curves)


def overlap(run: Run, _: Sequence[Finding]) -> Trend:
    """Overlap of held-out responses with the teacher's."""
    curve = run.curves["val-aux/gad/rouge_l"]
    first, last, best = curve.finite[0], curve.finite[-1], max(curve.finite)
    course = f"from {plain(first)} to {plain(last)}"
    if len(curve.finite) < 2:
        return Trend("unknown", f"{plain(last)}, measured once.", plain(last))
    if last < first - _OVERLAP_STEP:
        return Trend("problem", f"Fell {course}.", plain(last), "low")
    if last < best - _FALL_FROM_BEST:
        return Trend("watch", f"Went {course}, below its best of {plain(best)}.", plain(last), "low")
    return Trend("healthy", f"Went {course}.", plain(last))
