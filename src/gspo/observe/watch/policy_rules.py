"""Warnings about the policy's updates: too far, none at all, not finite."""

from __future__ import annotations

import math

from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History, Row
from gspo.observe.watch.rule import LR, Rule, figure, share

__all__ = ["POLICY_RULES"]

# Nats a token in one step. Runs that learn stay below 0.02; a run that collapses in a step moves by one or more.
_FAR_IN_A_STEP = 0.3
# From one step to the next. An entropy that is estimated on few tokens moves by less than a factor of 2.
_ENTROPY_UP, _ENTROPY_DOWN, _ENTROPY_LEAST = 2.5, 0.2, 0.3
_CUT_JUMP = 0.6  # of all responses, from one step to the next
_FAR_FROM_REFERENCE = 2.0  # nats a token
_STEPS = 3
_BEYOND_BAND = 0.1  # above the share of clipped tokens at which the loss's band begins to be a problem
# Where one of these is not finite, something that is trained on is not.
_LOSSES = ("actor/pg_loss", "actor/kl_loss", "train/loss", "critic/vf_loss", "critic/d_loss", "critic/score/mean")
_LOSS_RISE, _LOSS_RISE_SHARE = 0.5, 1.25


def _collapse(history: History, facts: Facts) -> str:
    fewer = (
        ", or make fewer optimizer steps per rollout (a larger actor_rollout_ref.actor.ppo_mini_batch_size)"
        if facts.updates > 1
        else ""
    )
    remedy = f"the policy has probably collapsed. Begin again with a lower {LR} (now {facts.lr:g}){fewer}"
    moved = history.row.get("actor/ppo_kl", 0.0)
    if abs(moved) >= _FAR_IN_A_STEP:
        return (
            f"its updates moved the policy by {figure(abs(moved))} nats a token (actor/ppo_kl), where 0.02 is much: "
            f"{remedy}"
        )
    entropies = history.values("actor/entropy", 2)
    if len(entropies) == 2:
        before, now = entropies
        rose = now >= max(_ENTROPY_UP * before, before + _ENTROPY_LEAST)
        fell = now <= _ENTROPY_DOWN * before and before - now >= _ENTROPY_LEAST
        if rose or fell:
            return f"the entropy went from {figure(before)} to {figure(now)} nats within one step: {remedy}"
    cut = history.values("response_length/clip_ratio", 2)
    if len(cut) == 2 and cut[1] - cut[0] >= _CUT_JUMP:
        return (
            f"the share of responses that do not end before data.max_response_length went from {cut[0]:.0%} to "
            f"{cut[1]:.0%} within one step: {remedy}"
        )
    return ""


def _far_from_reference(history: History, facts: Facts) -> str:
    moved = history.values("actor/kl_loss", _STEPS)
    if not facts.kl_per_token or not moved or min(moved) < _FAR_FROM_REFERENCE:
        return ""
    return (
        f"the policy is {figure(moved[-1])} nats a token away from the reference (actor/kl_loss) since "
        f"{history.span(_STEPS)}: lower {LR} (now {facts.lr:g}), or raise actor_rollout_ref.actor.kl_loss_coef (now "
        f"{facts.kl_loss_coef:g})"
    )


def _clipped(history: History, facts: Facts) -> str:
    shares = history.values("actor/pg_clipfrac", _STEPS)
    band = facts.loss.clip_band
    if facts.clip is None or band is None or not shares or min(shares) < band.ceiling + _BEYOND_BAND:
        return ""
    low, high = facts.clip
    own = facts.loss.clip
    wider = "widen actor_rollout_ref.actor.clip_ratio_low and clip_ratio_high"
    if own is not None and max(low, high) < min(own):
        wider = f"leave actor_rollout_ref.actor.clip_ratio* out for the loss's own {own[0]:g} / {own[1]:g}"
    return (
        f"the clip range {low:g} / {high:g} took the gradient of {share(min(shares))} of the tokens out "
        f"(actor/pg_clipfrac) in {history.span(_STEPS)}: {wider}, or lower {LR} (now {facts.lr:g})"
    )


def _not_finite(history: History, facts: Facts) -> str:
    row = history.row
    for name, key in (("actor", LR), ("critic", "critic.optim.lr")):
        if row.get(f"{name}/skipped_steps"):
            return (
                f"a gradient was NaN or infinite, and its optimizer step was left out (further ones are counted in "
                f"{name}/skipped_steps): lower {key}"
                f"{f' (now {facts.lr:g})' if key == LR else ''}, or look for rewards that are not finite"
            )
    for name in _LOSSES:
        if not math.isfinite(row.get(name, 0.0)):
            return f"{name} is not a finite number: lower {LR} (now {facts.lr:g}), or look for such rewards"
    return ""


def _idle(row: Row) -> str:
    """Why a step that was to update the policy has not; empty where it has, or was not to."""
    if "actor/lr" not in row:
        return ""
    if row["actor/lr"] == 0:
        return "the learning rate is 0"
    if row.get("actor/skipped_steps", 0.0) >= 1:
        return "no gradient was finite"
    if "actor/grad_norm" not in row:
        return "no token counts in the loss"
    return "the gradient is exactly 0" if row["actor/grad_norm"] == 0 else ""


_IDLE_REMEDIES = {
    "the learning rate is 0": f"set {LR}, or a longer {LR.rpartition('.')[0]}.total_training_steps",
    "no gradient was finite": f"lower {LR}, or look for rewards that are not finite",
    "no token counts in the loss": "loosen algorithm.rollout_correction.rollout_rs_threshold",
    "the gradient is exactly 0": "look at critic/advantages/max and group/zero_spread for a batch without a signal",
}


def _not_updated(history: History, facts: Facts) -> str:
    del facts
    reasons = [_idle(row) for row in history.last(_STEPS)]
    if not reasons or not all(reasons):
        return ""
    return f"the policy was not updated in {history.span(_STEPS)}, as {reasons[-1]}: {_IDLE_REMEDIES[reasons[-1]]}"


def _loss_rises(history: History, facts: Facts) -> str:
    losses = history.values("train/loss", _STEPS)
    first = history.first.get("train/loss")
    if not losses or first is None or min(losses) < max(first + _LOSS_RISE, _LOSS_RISE_SHARE * first):
        return ""
    return (
        f"the training loss rose from {figure(first)} to {figure(losses[-1])} nats a token: begin again with a lower "
        f"{LR} (now {facts.lr:g})"
    )


POLICY_RULES = (
    Rule(
        "collapse",
        "`actor/ppo_kl` beyond 0.3 in one step; an entropy that goes to 2.5 times or to a fifth in one; a share of cut "
        "responses that grows by 0.6 in one",
        (LR,),
        _collapse,
    ),
    Rule("not finite", "a gradient or a loss that is NaN or infinite", (LR,), _not_finite),
    Rule(
        "far from the reference",
        "`actor/kl_loss` above 2 nats a token for 3 steps, where the loss has a divergence term",
        (LR, "actor_rollout_ref.actor.kl_loss_coef"),
        _far_from_reference,
        after=("collapse",),
    ),
    Rule(
        "mostly clipped",
        "`actor/pg_clipfrac` more than 0.1 above the end of the loss's band (0.3 for token ratios, 0.5 for sequence "
        "ratios) for 3 steps",
        ("actor_rollout_ref.actor.clip_ratio", LR),
        _clipped,
        after=("collapse",),
    ),
    Rule(
        "no update",
        "3 steps in which the policy was to learn and did not: learning rate or gradient 0, not finite, no token",
        (LR,),
        _not_updated,
        explained_by=("equal rewards", "groups without spread"),
    ),
    Rule(
        "rising loss",
        "a supervised loss half a nat and a quarter above its first value for 3 steps",
        (LR,),
        _loss_rises,
    ),
)
