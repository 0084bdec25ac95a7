"""What became of each metric, in words: a verdict over the whole run, with advice for the side on which it is off."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from gspo.observe.report import loss_trends, trends
from gspo.observe.report.course import Course, Side, Status, Trend, follow, rise
from gspo.observe.report.findings import Finding, find
from gspo.observe.report.meanings import MEANINGS, Meaning
from gspo.observe.report.numbers import plain
from gspo.observe.report.ranges import (
    CLIP_FRACTIONS,
    band_in_force,
    clip_is_misfit,
    clip_words,
    healthy_words,
    with_values,
)
from gspo.observe.report.run import Curve, Run

__all__ = ["Verdict", "read_run"]

_SURE = 2.0  # standard deviations
# A policy that was moved far stays there; of the others, what is over is over.
_LASTING = ("actor/ppo_kl", "actor/kl_loss", "actor/skipped_steps", "reward/errors")
# The critic learns in all of GAD's stages, and texts are learned in the first.
_IN_ALL_STAGES = [
    key for key in MEANINGS if key.startswith(("critic/", "train/", "val", "reward/")) and key != "critic/score/mean"
]
# Told only where something happened.
_IF_ANY = ("actor/skipped_steps", "reward/errors", "reward/abstained")


@dataclass(frozen=True)
class Verdict:
    """The state of one metric.

    Attributes:
        key: its key in MEANINGS.
        status: healthy, watch, problem, or unknown where nothing can be said.
        text: what was seen, in a sentence.
        value: its figure, as text.
        healthy: where it is healthy in this run, in words.
        lever: what to change; empty where nothing is to be changed, or what is stands elsewhere.
    """

    key: str
    status: Status
    text: str
    value: str
    healthy: str = ""
    lever: str = ""

    @property
    def meaning(self) -> Meaning:
        return MEANINGS[self.key]


def read_run(run: Run, findings: list[Finding] | None = None) -> list[Verdict]:
    """A verdict for each metric of MEANINGS that the run has, in their order.

    After a collapse no metric gives advice of its own: all of them follow from it, and its finding says what to change.

    Args:
        run: the run.
        findings: what `findings.find` says of it, where that is known.
    """
    findings = find(run) if findings is None else findings
    verdicts = [verdict for key in MEANINGS if (verdict := _read(run, key, findings)) is not None]
    if any(finding.name == "collapse" for finding in findings):
        verdicts = [replace(verdict, lever="") for verdict in verdicts]
    return [replace(verdict, healthy=healthy_words(run, verdict.key)) for verdict in verdicts]


def _read(run: Run, key: str, findings: list[Finding]) -> Verdict | None:
    if key == "held-out":
        return _trend(run, key, trends.held_out(run, findings), findings) if run.held_out else None
    if key not in run.curves or (key == "group/zero_spread" and not run.compares_groups):
        return None
    whole = run.curves[key]
    if key in _IF_ANY and not any(whole.finite):
        return None
    if len(whole.finite) < len(whole.values):
        bad = next(step for step, value in whole.pairs() if not math.isfinite(value))
        text = f"It was not a finite number, first at step {bad}: the run diverged or a reward was not finite."
        return Verdict(key, "problem", text, "not finite", lever=_advice(run, key, "high"))
    curve = run.clip_curve(key) if key in CLIP_FRACTIONS else run.policy_curve(key)
    if not curve.values and key not in _IN_ALL_STAGES:
        return None
    if key in _TRENDS:
        return _trend(run, key, _TRENDS[key](run, findings), findings)
    if key in CLIP_FRACTIONS:
        return _clip_fraction(run, key, curve, findings)
    if key == "actor/ppo_kl":
        return _kl(run, curve)
    band = band_in_force(run, key)
    if band is None:
        return None
    return _verdict(run, key, follow(whole if key in _IN_ALL_STAGES else curve, band, lasting=key in _LASTING))


def _verdict(run: Run, key: str, course: Course) -> Verdict:
    lever = _advice(run, key, course.side) if course.status in ("watch", "problem") else ""
    return Verdict(key, course.status, course.text, plain(course.value), lever=lever)


def _trend(run: Run, key: str, trend: Trend, findings: list[Finding]) -> Verdict:
    lever, told = "", {finding.lever for finding in findings}  # those have their values already
    if trend.status in ("watch", "problem"):
        own = trend.lever if trend.lever in told else with_values(run, trend.lever)
        lever = own or _advice(run, key, trend.side)
    return Verdict(key, trend.status, trend.text, trend.value, lever=lever)


def _advice(run: Run, key: str, side: Side | None) -> str:
    meaning = MEANINGS[key]
    return with_values(run, {"high": meaning.too_high, "low": meaning.too_low, None: ""}[side])


def _clip_fraction(run: Run, key: str, curve: Curve, findings: list[Finding]) -> Verdict | None:
    if run.loss.clip is None:
        return None
    shown = plain(curve.values[-1]) if curve.values else "-"
    if run.updates_per_rollout() == 1:
        text = "One optimizer step per rollout: the ratio is one and no clip can act. This is by construction."
        return Verdict(key, "unknown", text, shown)
    if not curve.values:
        return Verdict(key, "unknown", "No step had a gradient, so there was nothing to clip.", "-")
    band = band_in_force(run, key)
    if band is None:
        return None
    course, misfit = follow(curve, band), clip_is_misfit(run)
    num_steps = len(run.policy_curve(key).values)
    if len(curve.values) < num_steps:
        course = replace(course, text=f"{course.text} {len(curve.values)} of {num_steps} steps had a gradient.")
    verdict = _verdict(run, key, course)
    if course.status == "healthy":
        return verdict
    if misfit:
        text = f"{course.text} The range does not fit: {misfit}."
        keys = "actor_rollout_ref.actor.clip_ratio_low and actor_rollout_ref.actor.clip_ratio_high"
        return replace(verdict, text=text, lever=with_values(run, keys))
    if course.side == "low":
        text = f"{course.text} Updates seldom reach the range of {clip_words(run)}."
        if rise(run.reward) > _SURE:
            return replace(verdict, status="healthy", text=f"{text} The reward rises all the same.", lever="")
        still = [finding.lever for finding in findings if finding.name == "still"]
        return replace(verdict, text=text, lever=still[0] if still else verdict.lever)
    return verdict


def _kl(run: Run, curve: Curve) -> Verdict | None:
    """A step without a gradient may move the policy too, by momentum, so all steps count where one went far."""
    band = band_in_force(run, "actor/ppo_kl")
    if band is None:
        return None
    whole = follow(curve, band, lasting=True)
    if whole.status == "problem":
        return _verdict(run, "actor/ppo_kl", whole)
    moving = run.moving_curve("actor/ppo_kl")
    if not moving.values:
        return Verdict("actor/ppo_kl", "unknown", "No step had a gradient.", "-")
    if run.updates_per_rollout() == 1 and whole.status == "healthy":
        text = "One optimizer step per rollout: it is measured before that step, so it is near 0 by construction."
        return Verdict("actor/ppo_kl", "unknown", text, plain(curve.values[-1]))
    return _verdict(run, "actor/ppo_kl", follow(moving, band, lasting=True))


_TRENDS: dict[str, Callable[[Run, list[Finding]], Trend]] = {
    "critic/score/mean": trends.reward,
    "train/loss": loss_trends.training_loss,
    "val/loss": loss_trends.held_out_loss,
    "group/zero_spread": trends.signal,
    "response_length/mean": trends.length,
    "actor/entropy": trends.entropy,
    "actor/grad_norm": trends.grad_norm,
    "critic/d_loss": loss_trends.discriminator_loss,
    "critic/margin": loss_trends.teacher_gap,
    "critic/length_acc": loss_trends.told_by_length,
    "critic/eos_acc": loss_trends.told_by_end,
    "val-aux/gad/rouge_l": loss_trends.overlap,
}
