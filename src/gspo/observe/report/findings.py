"""What happened in a run as a whole, where several metrics together say it: the first things to read and to mend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gspo.observe.report.collapse import Collapse, find_collapse, find_jolt, slower
from gspo.observe.report.course import Status, recent, rise
from gspo.observe.report.numbers import plain, share
from gspo.observe.report.ranges import with_values
from gspo.observe.report.run import Run

__all__ = ["Finding", "find"]

_FEW_STEPS = 8
_MOST, _MANY = 0.9, 0.5
_RISES = 2.0  # standard deviations
_STILL_KL = 1e-5  # nats a token: an update that no sample would show
_STILL_CHANGE = 0.02  # of the entropy
_ACTOR = "actor_rollout_ref.actor"
_EASIER = (
    "easier prompts, or supervised fine-tuning first (gspo sft); and see in `gspo samples` whether the reward function "
    "reads right answers as right"
)


@dataclass(frozen=True)
class Finding:
    """One thing that happened.

    Attributes:
        name: what kind it is.
        status: whether it is good, to be watched or a problem.
        title: in a few words.
        text: what was seen.
        lever: what to change; empty for nothing.
    """

    name: str
    status: Status
    title: str
    text: str
    lever: str = ""


def find(run: Run) -> list[Finding]:
    """The findings on a run, the gravest first; none where nothing stands out."""
    if run.is_supervised or not run.curves:
        return []
    collapse = find_collapse(run)
    if collapse is not None:
        return [_collapsed(collapse)]
    return [*_jolted(run), *_groups(run), *_cut(run), *_standing_still(run), *_zero_rate(run)]


def _collapsed(collapse: Collapse) -> Finding:
    title = f"The run collapsed at step {collapse.step}"
    return Finding("collapse", "problem", title, collapse.text, collapse.lever)


def _jolted(run: Run) -> Iterator[Finding]:
    jolt = find_jolt(run)
    if jolt is not None:
        text = f"KL to the sampling policy reached {plain(jolt.kl)} nats a token in one step, where 0.02 is much."
        title = f"Step {jolt.step} threw the policy far off"
        yield Finding("jolt", "problem", title, text, slower(run, jolt.step))


def _groups(run: Run) -> Iterator[Finding]:
    """Whether the prompts are solved, or hopeless."""
    if not run.compares_groups or not run.counts_solved:
        return
    right, wrong = (recent(run.policy_curve(f"group/{name}")) for name in ("all_right", "all_wrong"))
    if wrong >= _MOST:
        first = run.policy_curve("group/all_wrong").finite[0]
        course = "from the start" if first >= _MOST else f"lately, {share(first)} at the start"
        text = f"In {share(wrong)} of the groups no response is right ({course}): nothing tells better from worse."
        yield Finding("hopeless", "problem", "The prompts are too hard", text, with_values(run, _EASIER))
    elif right >= _MANY:
        text = f"{share(right)} of the groups were solved by every response lately: these prompts are learned."
        lever = "harder prompts, or algorithm.filter_groups.enable=true, which leaves the solved ones out"
        yield Finding("solved", "healthy", "Most training prompts are solved", text, with_values(run, lever))


def _cut(run: Run) -> Iterator[Finding]:
    if not run.has("response_length/clip_ratio"):
        return
    cut = recent(run.policy_curve("response_length/clip_ratio"))
    if cut >= _MANY:
        text = f"{share(cut)} of the responses ran into the limit of tokens lately, and are judged without their end."
        lever = with_values(run, "a larger data.max_response_length; or see whether the model ends its answers at all")
        yield Finding("cut", "problem", "Most responses are cut off", text, lever)


def _standing_still(run: Run) -> Iterator[Finding]:
    """A policy that is updated, and does not move."""
    norms = run.policy_curve("actor/grad_norm").finite if run.has("actor/grad_norm") else []
    rate = run.policy_curve("actor/lr").finite if run.has("actor/lr") else []
    if len(norms) < _FEW_STEPS or sum(norm > 0 for norm in norms) < _MANY * len(norms) or not any(rate):
        return
    if _learned(run):
        return
    kl = max((abs(value) for value in run.moving_curve("actor/ppo_kl").finite), default=0.0) if _updates(run) else None
    entropy = _change(run, "actor/entropy")
    if kl is not None and kl <= _STILL_KL:
        seen = f"no step moved the policy by more than {plain(kl)} nats a token"
    elif kl is None and entropy is not None and abs(entropy) <= _STILL_CHANGE:
        seen = f"the entropy is within {share(abs(entropy))} of its start"
    else:
        return
    text = f"Over {len(norms)} steps with a gradient {seen}, and the reward did not rise."
    lever = with_values(run, f"a higher {_ACTOR}.optim.lr: 10 times, then again")
    yield Finding("still", "watch", "The policy hardly moves", text, lever)


def _zero_rate(run: Run) -> Iterator[Finding]:
    rates = run.policy_curve("actor/lr").finite if run.has("actor/lr") else []
    if len(rates) > 1 and not any(rates):
        text = f"The learning rate is 0 at all {len(rates)} steps: nothing was trained."
        lever = with_values(run, f"{_ACTOR}.optim.lr above 0")
        yield Finding("rate", "problem", "Nothing was trained", text, lever)


def _updates(run: Run) -> bool:
    """Whether the policy's move within a step can be seen: it takes a second optimizer step."""
    return run.has("actor/ppo_kl") and (run.updates_per_rollout() or 2) > 1


def _learned(run: Run) -> bool:
    return not run.has_discriminator and rise(run.reward) > _RISES


def _change(run: Run, name: str) -> float | None:
    """The relative change from the start to the end."""
    curve = run.policy_curve(name)
    if not curve.finite:
        return None
    start, end = curve.ends()
    return (end - start) / start if start else None
