"""How the policy's metrics without a fixed range went from the run's start to its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from gspo.observe.report.course import Status, Trend, follow, recent, rise
from gspo.observe.report.findings import Finding
from gspo.observe.report.meanings import MEANINGS
from gspo.observe.report.numbers import plain, share
from gspo.observe.report.run import Curve, Run, mean

__all__ = ["entropy", "grad_norm", "held_out", "length", "reward", "signal"]

_FEW_STEPS = 8  # a course is not judged on fewer
_ACCURACY_STEP = 0.01  # a change of held-out accuracy below this is none
_FALL_FROM_BEST = 0.05
_HIGH = 0.95  # of all that can be had: there is little left to rise to
_SURE = 2.0  # standard deviations
_LOST_REWARD = 0.25  # of what was gained
_ENTROPY_WATCH, _ENTROPY_PROBLEM = 0.33, 0.1  # of the start
_ENTROPY_GROWN, _ENTROPY_NATS = 2.0, 0.5  # times the start, and by so many nats
_SPIKE = 5.0  # times the median
_LENGTH_GROWTH, _LENGTH_LOSS = 1.5, 0.5
_SOLVED_SHARE = 0.5  # of the groups without a signal
_ACTOR = "actor_rollout_ref.actor"


def held_out(run: Run, findings: Sequence[Finding]) -> Trend:
    """Judges the source that did worst, and tells all of them."""
    read = [_source(source, curve, findings) for source, curve in run.held_out.items()]
    return _worst(read)


def _source(source: str, curve: Curve, findings: Sequence[Finding]) -> Trend:
    known = [(step, value) for step, value in curve.pairs() if math.isfinite(value)]
    first, last, best = known[0][1], known[-1][1], max(value for _, value in known)
    value = f"{100 * last:.1f} %"
    if len(known) < 2:
        return Trend("unknown", f"{source}: {value}, measured once.", value)
    course = f"from {100 * first:.1f} % to {value}"
    peak = next(step for step, accuracy in known if accuracy == best)
    if last < first - _ACCURACY_STEP:
        return Trend("problem", f"{source}: fell {course}.", value, "low", f"a lower {_ACTOR}.optim.lr")
    if last < best - _FALL_FROM_BEST:
        text = f"{source}: went {course}, below its best of {100 * best:.1f} % at step {peak}."
        lever = f"a lower {_ACTOR}.optim.lr, or an end near step {peak} (trainer.total_training_steps)"
        return Trend("watch", text, value, "low", lever)
    if last <= first + _ACCURACY_STEP:
        if last >= _HIGH:
            return Trend("healthy", f"{source}: stayed high, {course}.", value)
        named = [finding for finding in findings if finding.status in ("watch", "problem") and finding.lever]
        lever = named[0].lever if named else "more steps, or prompts that are neither solved nor hopeless"
        return Trend("watch", f"{source}: hardly moved, {course}.", value, "low", lever)
    return Trend("healthy", f"{source}: rose {course}.", value)


def _worst(read: Sequence[Trend]) -> Trend:
    order: list[Status] = ["problem", "watch", "healthy", "unknown"]
    worst = min(read, key=lambda trend: order.index(trend.status))
    text, value = " ".join(trend.text for trend in read), ", ".join(trend.value for trend in read)
    return Trend(worst.status, text, value, worst.side, worst.lever)


def reward(run: Run, findings: Sequence[Finding]) -> Trend:
    """Of responses to training prompts, against the noise between neighbouring steps and against its best."""
    curve = run.reward
    start, end = curve.ends()
    course, value = f"from {plain(start)} to {plain(end)}", plain(end)
    if run.has_discriminator:
        text = f"Went {course}. A discriminator's score moves with its updates: it is no measure of progress."
        return Trend("unknown", text, value)
    if any(finding.name == "collapse" for finding in findings):
        return Trend("problem", f"Went from {plain(curve.values[0])} at its first step to {value}.", value, "low")
    if len(curve.values) < _FEW_STEPS:
        return Trend("unknown", f"Went {course}; too few steps to judge.", value)
    low, high = _reach(run, curve)
    if high == low:
        text = f"Every response got the same reward, {plain(low)}: nothing tells better from worse."
        return Trend("problem", text, value, "low", _still(findings))
    part, risen = max(1, round(0.1 * len(curve.values))), rise(curve)
    noise = (end - start) / risen if risen and math.isfinite(risen) else 0.0
    smooth = [mean(curve.values[place : place + part]) for place in range(len(curve.values) - part + 1)]
    best = max(range(len(smooth)), key=lambda place: smooth[place])
    if risen < -_SURE:
        return Trend("problem", f"Fell {course}.", value, "low", f"a lower {_ACTOR}.optim.lr")
    if smooth[best] - end > max(4 * noise, _LOST_REWARD * (smooth[best] - low)):
        at = curve.steps[best + part // 2]
        text = f"Rose to {plain(smooth[best])} near step {at}, and lost much of it: {plain(end)} at the end."
        return Trend("watch", text, value, "low", f"a lower {_ACTOR}.optim.lr, or an end near step {at}")
    if risen <= _SURE:
        if end >= low + _HIGH * (high - low):
            return Trend("healthy", f"Stayed near the highest reward, {course}.", value)
        return Trend("watch", f"Went {course}: no rise above the noise.", value, "low", _still(findings))
    return Trend("healthy", f"Rose {course}.", value)


def _still(findings: Sequence[Finding]) -> str:
    """What to do for a reward that does not rise: what the findings name, where they name something."""
    named = [finding.lever for finding in findings if finding.status in ("watch", "problem") and finding.lever]
    return named[0] if named else "more steps, a larger actor_rollout_ref.rollout.n, or prompts of middling difficulty"


def _reach(run: Run, curve: Curve) -> tuple[float, float]:
    """The lowest and the highest reward of any response."""
    ends = [run.curves[f"critic/score/{end}"].finite for end in ("min", "max") if run.has(f"critic/score/{end}")]
    values = [value for found in [*ends, curve.finite] for value in found]
    return min(values), max(values)


def signal(run: Run, findings: Sequence[Finding]) -> Trend:
    """Groups without a signal: hopeless ones are judged; solved ones are what training is for."""
    band = MEANINGS["group/zero_spread"].band
    assert band is not None
    flat = run.policy_curve("group/zero_spread")
    course = follow(flat, band)
    value = share(course.value)
    if not run.counts_solved:
        if course.value > 0 and _is_mostly_right(run):
            return Trend("healthy", f"Lately {value}; by the mean reward, most of these groups are solved.", value)
        return Trend(course.status, course.text, value, course.side)
    right, wrong = (recent(run.policy_curve(f"group/all_{name}")) for name in ("right", "wrong"))
    parts = f"Lately {value} of the groups: {share(right)} solved by every response, {share(wrong)} by none."
    if course.value > 0 and right >= _SOLVED_SHARE * course.value:
        return Trend("healthy", f"{parts} Most of them are learned.", value)
    hopeless = follow(run.policy_curve("group/all_wrong"), band)
    if hopeless.status == "healthy":
        return Trend("healthy", parts, value)
    lever = "easier prompts, a larger actor_rollout_ref.rollout.n, or algorithm.filter_groups.enable=true"
    named = [finding.lever for finding in findings if finding.name == "hopeless"]
    if hopeless.value <= band.high:  # it is over
        return Trend("healthy", f"{parts} At the start more were hopeless; that is over.", value)
    return Trend(hopeless.status, parts, value, "high", named[0] if named else lever)


def _is_mostly_right(run: Run) -> bool:
    """Of a run that did not count solved groups: whether its mean reward is in the upper half of all rewards."""
    curve = run.reward
    if not curve.finite:
        return False
    low, high = _reach(run, curve)
    return recent(curve) > (low + high) / 2


def length(run: Run, _: Sequence[Finding]) -> Trend:
    """The length of responses, which should follow the reward."""
    curve = run.policy_curve("response_length/mean")
    start, end = curve.ends()
    text, value = f"Went from {plain(start)} to {plain(end)} tokens.", plain(end)
    if len(curve.values) < _FEW_STEPS:
        return Trend("healthy", text, value)
    gains = [accuracy.finite[-1] - accuracy.finite[0] for accuracy in run.held_out.values()]
    helped = not gains or max(gains) > _ACCURACY_STEP
    if end > _LENGTH_GROWTH * start and not helped:
        return Trend("watch", f"{text[:-1]}, and held-out accuracy did not rise with it.", value, "high")
    if end < _LENGTH_LOSS * start and not (gains and helped):
        return Trend("watch", f"{text[:-1]}: less than half, and no accuracy shows that it is enough.", value, "low")
    return Trend("healthy", text, value)


def entropy(run: Run, _: Sequence[Finding]) -> Trend:
    """Against its own start, which is its first step where that is the more telling one."""
    curve = run.policy_curve("actor/entropy")
    early, end = curve.ends()
    first = curve.values[0]
    high, low = max(first, early), min(first, early)
    text, value = f"Went from {plain(first)} to {plain(end)} nats.", plain(end)
    if end > _ENTROPY_GROWN * low and end > low + _ENTROPY_NATS:
        return Trend("problem", f"{text[:-1]}: the policy becomes random.", value, "high")
    fallen = end / high if high > 0 else 1.0
    status: Status = "problem" if fallen < _ENTROPY_PROBLEM else "watch" if fallen < _ENTROPY_WATCH else "healthy"
    solved = _reward_is_high(run)
    if status != "healthy" and solved:
        return Trend("healthy", f"{text[:-1]}; the reward is near its highest, so little is left to decide.", value)
    return Trend(status, text, value, None if status == "healthy" else "low")


def _reward_is_high(run: Run) -> bool:
    curve = run.reward
    if not curve.finite or run.has_discriminator:
        return False
    low, high = _reach(run, curve)
    return high > low and curve.ends()[1] >= low + _HIGH * (high - low)


def grad_norm(run: Run, findings: Sequence[Finding]) -> Trend:
    """Spikes, and steps without a gradient."""
    curve = run.policy_curve("actor/grad_norm")
    moving = run.moving_curve("actor/grad_norm")
    zeros = len(curve.values) - len(moving.values)
    if not moving.values:
        text = f"Exactly zero at all {zeros} steps: nothing was learned."
        return Trend("problem", text, "0", "low", _cause(findings))
    middle, largest = median(moving.values), max(moving.values)
    trailing = sum(1 for step in curve.steps if step > moving.steps[-1])
    if zeros:
        text = f"Exactly zero at {zeros} of {len(curve.values)} steps: no group of those batches had a signal."
        if trailing >= max(3, zeros / 2):
            text = f"{text[:-1]}. It is zero since step {curve.steps[-trailing]}."
        solved = any(finding.name == "solved" for finding in findings)
        status: Status = "healthy" if solved else "problem" if trailing > 0.5 * len(curve.values) else "watch"
        return Trend(status, text, plain(recent(curve)), "low", _cause(findings))
    if largest > _SPIKE * middle:
        step = moving.steps[moving.values.index(largest)]
        return Trend(
            "watch", f"Median {plain(middle)}, with a spike of {plain(largest)} at step {step}.", plain(middle), "high"
        )
    return Trend("healthy", f"Median {plain(middle)}, no spikes.", plain(middle))


def _cause(findings: Sequence[Finding]) -> str:
    named = [finding.lever for finding in findings if finding.name in ("hopeless", "solved", "cut", "rate")]
    return named[0] if named else ""
