"""Whether the policy broke: what it was rewarded for is gone, and something of the policy itself says why.

Measured from the run's own start: a run that breaks in its first update has one step of what it could, so neither the
first tenth nor the last tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from gspo.observe.report.numbers import plain, share
from gspo.observe.report.ranges import with_values
from gspo.observe.report.run import Curve, Run, mean

__all__ = ["Collapse", "Jolt", "find_collapse", "find_jolt", "slower"]

_LEFT = 0.25  # of what was gained over the floor: less than that is a collapse
_NOISE = 4.0  # standard deviations that the fall must be
_SMOOTH_SHARE = 0.05
_ZERO_GRADIENTS = 0.8  # of the steps after it
_ENTROPY_LOST, _ENTROPY_GROWN = 0.1, 2.0  # of and times the start
_HARD_KL, _JOLT_KL = 0.1, 1.0  # nats a token in one step
_FAR_REFERENCE = 2.0
_EARLY = 3  # steps before which no checkpoint holds anything that was learned
_MOSTLY_CUT, _SELDOM_CUT = 0.9, 0.5


@dataclass(frozen=True)
class Collapse:
    """A collapse that lasted to the end.

    Attributes:
        step: the first step at which what was rewarded is gone.
        of: what fell, "reward" or "held-out accuracy".
        text: what was seen.
        lever: what to change.
    """

    step: int
    of: str
    text: str
    lever: str


@dataclass(frozen=True)
class Jolt:
    """One step that moved the policy far."""

    step: int
    kl: float


def find_jolt(run: Run) -> Jolt | None:
    """The step that moved the policy most, where that was very far."""
    if not run.has("actor/ppo_kl"):
        return None
    known = [(step, value) for step, value in run.policy_curve("actor/ppo_kl").pairs() if math.isfinite(value)]
    step, value = max(known, key=lambda pair: abs(pair[1]), default=(0, 0.0))
    return Jolt(step, value) if abs(value) >= _JOLT_KL else None


def find_collapse(run: Run) -> Collapse | None:
    """The collapse that a run did not come back from; None where there is none."""
    for of, curve, floor in _measures(run):
        fall = _fall(curve, floor)
        if fall is None:
            continue
        best_step, best, step, left = fall
        signs = list(_signs(run, step))
        if signs:
            show = share if of != "reward" else plain
            text = (
                f"The {of} was {show(best)} at step {best_step}, {show(left)} from step {step} on, and did not come "
                f"back. {' '.join(signs)}"
            )
            return Collapse(step, of, text, slower(run, step))
    return None


def slower(run: Run, step: int) -> str:
    """What keeps a policy from being thrown off."""
    actor = "actor_rollout_ref.actor"
    updates = run.updates_per_rollout()
    parts = [f"a lower {actor}.optim.lr: a third to a tenth"]
    if updates is not None and updates > 1:
        parts.append(f"fewer optimizer steps per rollout (a larger {actor}.ppo_mini_batch_size)")
    if run.setting(f"{actor}.use_kl_loss"):
        parts.append(f"a larger {actor}.kl_loss_coef")
    else:
        parts.append(f"the divergence from the reference in the loss ({actor}.use_kl_loss=true)")
    words = with_values(run, "; ".join(parts))
    return words if step <= _EARLY else f"{words}. A checkpoint from before step {step} is still of use"


def _measures(run: Run) -> Iterator[tuple[str, Curve, float]]:
    """What success is measured by, the most frequent first: its name, its curve, and the least that it can be."""
    if run.has("critic/score/mean") and not run.has_discriminator:
        curve = run.reward
        lowest = run.curves.get("critic/score/min", curve)
        yield "reward", curve, min(lowest.finite, default=min(curve.finite))
    for curve in run.held_out.values():
        yield "held-out accuracy", curve, 0.0


def _fall(curve: Curve, floor: float) -> tuple[int, float, int, float] | None:
    """(step and level of the best, step from which it is lost, level then) where most of it was lost for good."""
    pairs = [(step, value) for step, value in curve.pairs() if math.isfinite(value)]
    if len(pairs) < 2:
        return None
    steps, values = [step for step, _ in pairs], [value for _, value in pairs]
    reach = round(_SMOOTH_SHARE * len(values) / 2)
    smooth = [mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
    best = max(range(len(smooth)), key=lambda place: smooth[place])
    left = mean(smooth[-max(1, len(smooth) // 10) :])
    line = floor + _LEFT * (smooth[best] - floor)
    lost = next((i for i in range(best + 1, len(smooth)) if max(values[i:]) <= line), None)
    # The median does not see the fall itself; 1.48 makes it the deviation of a normal distribution.
    noise = 1.48 * median([abs(later - earlier) for earlier, later in pairwise(values)]) / math.sqrt(2)
    if lost is None or smooth[best] - left <= _NOISE * noise:
        return None
    return steps[best], smooth[best], steps[lost], left


def _signs(run: Run, step: int) -> Iterator[str]:
    """What of the policy says that it broke, around a step or after it."""
    for name, words, bound in (
        ("actor/ppo_kl", "KL to the sampling policy", _HARD_KL),
        ("actor/kl_loss", "KL to the reference", _FAR_REFERENCE),
    ):
        found = _finite(run, name)
        if found and abs((largest := max(found, key=lambda pair: abs(pair[1])))[1]) >= bound:
            yield f"{words} reached {plain(largest[1])} at step {largest[0]}."
    if (entropy := _finite(run, "actor/entropy")) and len(entropy) > 1:
        start, end = entropy[0][1], median(value for _, value in entropy[-max(1, len(entropy) // 10) :])
        if end < _ENTROPY_LOST * start or end > _ENTROPY_GROWN * start:
            yield f"Entropy went from {plain(start)} to {plain(end)}."
    after = [value for at, value in _finite(run, "actor/grad_norm") if at >= step]
    if after and sum(value == 0 for value in after) >= _ZERO_GRADIENTS * len(after):
        yield "The gradient is zero since: with one reward for all there is nothing to learn from."
    cut = _finite(run, "response_length/clip_ratio")
    if cut and cut[0][1] < _SELDOM_CUT and cut[-1][1] >= _MOSTLY_CUT:
        yield f"{share(cut[-1][1])} of the responses now run into the length limit."


def _finite(run: Run, name: str) -> list[tuple[int, float]]:
    if name not in run.curves:
        return []
    return [(step, value) for step, value in run.policy_curve(name).pairs() if math.isfinite(value)]
