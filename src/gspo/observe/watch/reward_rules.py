"""Warnings about what was sampled and how it was scored."""

from __future__ import annotations

from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History
from gspo.observe.watch.rule import Rule, figure, share

__all__ = ["REWARD_RULES"]

_STEPS = 3
_CUT = 0.9
_FLAT = 0.9
_UNJUDGED = 0.5
_IMITATES = 0.0  # training/gad_stage: the teacher's text is learned, and what is sampled trains the discriminator only
_N = "actor_rollout_ref.rollout.n"


def _all_cut(history: History, facts: Facts) -> str:
    cut = history.values("response_length/clip_ratio", _STEPS)
    if facts.runs_on or not cut or min(cut) < _CUT or history.row.get("training/gad_stage") == _IMITATES:
        return ""
    return (
        f"{share(min(cut))} of the responses of {history.span(_STEPS)} were cut at data.max_response_length="
        f"{facts.max_response_length}, before they had ended: raise it, or train a model that ends its answers (gspo "
        "sft). Where they are meant to be cut, set actor_rollout_ref.rollout.ignore_eos=true"
    )


def _equal_rewards(history: History, facts: Facts) -> str:
    least, most = (history.values(f"critic/score/{end}", _STEPS) for end in ("min", "max"))
    if facts.distils or not least or min(least) != max(most):
        return ""
    value = least[-1]
    seen = f"every response of {history.span(_STEPS)} got the reward {value:g}, so that nothing can be learned: "
    read = f"the reward function ({facts.reward_key}) may not read the answers as they are written (see samples.jsonl)"
    if history.highest["critic/score/max"] > value:
        return f"{seen}earlier ones got up to {figure(history.highest['critic/score/max'])}. {_lost(history)}"
    if value > 0:
        return f"{seen}either the prompts are solved already (take harder ones), or {read}"
    return (
        f"{seen}either {read}, or the model solves none of these prompts: take easier ones, or teach it by gspo sft "
        "first"
    )


def _lost(history: History) -> str:
    """What to do where there were rewards before."""
    if "collapse" in history.told:
        return (
            f"The policy has not recovered from step {history.told['collapse']}: begin again with a lower "
            "actor_rollout_ref.actor.optim.lr"
        )
    entropy, first = history.row.get("actor/entropy"), history.first.get("actor/entropy")
    if entropy is not None and first and not 0.5 * first <= entropy <= 2 * first:
        return (
            f"The entropy has gone from {figure(first)} to {figure(entropy)} nats: the policy has probably collapsed. "
            "Begin again with a lower actor_rollout_ref.actor.optim.lr"
        )
    return "Take easier prompts, or more of them in a step (data.train_batch_size)"


def _flat_groups(history: History, facts: Facts) -> str:
    flat = history.values("group/zero_spread", _STEPS)
    if not facts.compares_groups or facts.distils or not flat or min(flat) < _FLAT:
        return ""
    least, most = history.lowest.get("critic/score/min", 0.0), history.highest.get("critic/score/max", 0.0)
    means = history.values("group/score_unfiltered" if facts.filters else "critic/score/mean", _STEPS)
    what = "were sampled for nothing and left out" if facts.filters else "teach nothing"
    seen = (
        f"{share(min(flat))} of the groups of {history.span(_STEPS)} {what}, as the {facts.n} responses to a "
        "prompt got the same reward"
    )
    if not means or most <= least:
        return f"{seen}: take prompts that are solved now and then, or raise {_N}"
    mean = sum(means) / len(means)
    where = f"(mean reward {figure(mean)}, of {figure(least)} to {figure(most)})"
    if mean - least >= 0.5 * (most - least):
        return f"{seen}; most are solved {where}: take harder prompts, or end the run here"
    return f"{seen}; most are solved by none {where}: take easier prompts, raise {_N}, or teach the model by gspo sft"


def _unjudged(history: History, facts: Facts) -> str:
    rows = history.last(2)
    shares = [(row.get("reward/errors", 0.0), row.get("reward/abstained", 0.0)) for row in rows]
    if not rows or min(map(sum, shares)) < _UNJUDGED:
        return ""
    errors, abstained = shares[-1]
    return (
        f"{errors:.0%} of the responses failed in their reward function and {abstained:.0%} were abstained from; they "
        f"train nothing: mend the reward function ({facts.reward_key}) or the rows (samples.jsonl says why for each)"
    )


REWARD_RULES = (
    Rule(
        "cut responses",
        "`response_length/clip_ratio` above 0.9 for 3 steps; not in GAD's warmup, nor with `ignore_eos`",
        ("data.max_response_length",),
        _all_cut,
        after=("collapse",),
    ),
    Rule(
        "equal rewards",
        "every response of 3 steps has the same reward; not where a discriminator gives it",
        ("reward.functions", "custom_reward_function.path", "data.train_files"),
        _equal_rewards,
    ),
    Rule(
        "groups without spread",
        "`group/zero_spread` above 0.9 for 3 steps, where the advantage compares a group's responses",
        ("data.train_files", _N),
        _flat_groups,
        explained_by=("equal rewards",),
        after=("collapse",),
    ),
    Rule(
        "unjudged responses",
        "`reward/errors` and `reward/abstained` together above 0.5 for 2 steps",
        ("reward.functions", "custom_reward_function.path"),
        _unjudged,
    ),
)
