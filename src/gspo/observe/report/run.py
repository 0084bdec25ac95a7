"""A run as the report sees it: curves by metric, samples, config, and what follows from what was set."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from gspo.methods import ADVANTAGES, DEFAULT_ADVANTAGE, DEFAULT_LOSS, Advantage, PolicyLoss, loss_named

__all__ = ["Curve", "Run", "Stage", "mean"]

_HELD_OUT = re.compile(r"val-core/(?P<source>.+)/acc/(?P<figure>mean@\d+)")
_ADVERSARIAL = "adversarial"
_STAGES = {0: "warmup", 1: "discriminator alone", 2: _ADVERSARIAL}  # of training/gad_stage
_END_SHARE = 0.1  # the first and the last tenth of a noisy curve stand for its start and its end


@dataclass(frozen=True)
class Curve:
    """One metric over the steps that logged it. What was not finite is NaN."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    def pairs(self) -> Iterator[tuple[int, float]]:
        """(step, value), in order."""
        return zip(self.steps, self.values, strict=True)

    def where(self, kept: Callable[[int], bool]) -> Curve:
        """The curve at the steps that a condition keeps."""
        pairs = [(step, value) for step, value in self.pairs() if kept(step)]
        return Curve(tuple(step for step, _ in pairs), tuple(value for _, value in pairs))

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]

    def ends(self) -> tuple[float, float]:
        """Means of the first and of the last tenth, for a curve with at least one finite value."""
        values = self.finite
        part = max(1, round(_END_SHARE * len(values)))
        return mean(values[:part]), mean(values[-part:])


@dataclass(frozen=True)
class Stage:
    """Steps of a GAD run that did the same, the first and the last one included."""

    name: str
    first: int
    last: int


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        damage: what of its files could not be read, in words.
        own_loss: what the run kept of a policy loss of the user's own.
        own_advantage: likewise of an advantage.
    """

    folder: Path
    curves: dict[str, Curve]
    samples: list[dict[str, Any]]
    config_text: str
    config: dict[str, Any]
    damage: tuple[str, ...] = ()
    own_loss: PolicyLoss | None = None
    own_advantage: Advantage | None = None

    @property
    def loss(self) -> PolicyLoss:
        """What is known of the policy loss.

        One of the user's own is known by what the run kept of it. Where it kept nothing, and where the folder has no
        config, the metrics say whether it clips whole sequences.
        """
        if self.own_loss is not None:
            return self.own_loss
        setting = self.setting("actor_rollout_ref.actor.policy_loss", "the policy loss")
        name = str(setting.get("loss_mode", DEFAULT_LOSS) if isinstance(setting, dict) else setting)
        return loss_named(name) or PolicyLoss(name, sequence_clip=self.has("actor/seq_clipfrac"))

    @property
    def held_out(self) -> dict[str, Curve]:
        """Held-out accuracy by data source."""
        found = {name: _HELD_OUT.fullmatch(name) for name in self.curves}
        return {match["source"]: self.curves[name] for name, match in found.items() if match and self.has(name)}

    def has(self, name: str) -> bool:
        """Whether a metric has at least one finite value."""
        return name in self.curves and bool(self.curves[name].finite)

    def setting(self, path: str, default: Any = None) -> Any:
        """The config's value at a dotted path."""
        node: Any = self.config
        for key in path.split("."):
            if not isinstance(node, dict) or node.get(key) is None:
                return default
            node = node[key]
        return node

    @property
    def is_supervised(self) -> bool:
        """Whether the run learned from given answers only."""
        return self.has("train/loss") and not self.has("critic/score/mean")

    @property
    def compares_groups(self) -> bool:
        """Whether the advantage compares the responses of a prompt, so that equal rewards teach nothing."""
        alone = self.setting("actor_rollout_ref.rollout.n") == 1
        name = str(self.setting("algorithm.adv_estimator", DEFAULT_ADVANTAGE))
        advantage = self.own_advantage or ADVANTAGES.get(name)
        return not alone and (advantage is None or advantage.compares_groups)

    @property
    def clip_range(self) -> tuple[float, float] | None:
        """(low, high) of the ratio's clip, as it was set; the loss's own where the folder has no config."""
        if self.loss.clip is None:
            return None
        actor = "actor_rollout_ref.actor"
        both = self.setting(f"{actor}.clip_ratio")
        low, high = (self.setting(f"{actor}.clip_ratio_{side}", both) for side in ("low", "high"))
        numbers = isinstance(low, (int, float)) and isinstance(high, (int, float))
        return (float(low), float(high)) if numbers else self.loss.clip

    @property
    def has_discriminator(self) -> bool:
        """Whether a discriminator gave the reward, or a part of it (GAD)."""
        return self.has("critic/d_acc")

    @property
    def reward(self) -> Curve:
        """The mean reward of all that the policy sampled, at the steps that trained it.

        Where groups without a signal are sampled again, the groups that are kept have a middling reward by choice.
        """
        unfiltered = "group/score_unfiltered"
        return self.policy_curve(unfiltered if self.has(unfiltered) else "critic/score/mean")

    @property
    def stages(self) -> list[Stage]:
        """GAD's stages in the order in which they came; none in another run."""
        if not self.has("training/gad_stage"):
            return []
        curve = self.curves["training/gad_stage"]
        found = groupby(zip(curve.steps, curve.values, strict=True), key=lambda pair: pair[1])
        parts = [(number, [step for step, _ in pairs]) for number, pairs in found if math.isfinite(number)]
        return [Stage(_STAGES.get(int(number), "unknown"), steps[0], steps[-1]) for number, steps in parts]

    @property
    def counts_solved(self) -> bool:
        """Whether groups without a signal are told apart, the solved ones from the hopeless, at every step."""
        names = [f"group/{name}" for name in ("zero_spread", "all_right", "all_wrong")]
        return all(map(self.has, names)) and len({self.curves[name].steps for name in names}) == 1

    def policy_curve(self, name: str) -> Curve:
        """A metric at the steps that trained the policy by reinforcement: of a GAD run, those of its last stage.

        Without any where the run does not have it.
        """
        curve = self.curves.get(name, Curve((), ()))
        stages = [stage for stage in self.stages if stage.name == _ADVERSARIAL]
        if not self.stages:
            return curve
        return curve.where(lambda step: any(stage.first <= step <= stage.last for stage in stages))

    def moving_curve(self, name: str) -> Curve:
        """The same at the steps whose gradient was not zero: the others tell nothing of an update."""
        curve = self.policy_curve(name)
        if "actor/grad_norm" not in self.curves:
            return curve
        still = {step for step, norm in self.curves["actor/grad_norm"].pairs() if norm == 0}
        return curve.where(lambda step: step not in still)

    def clip_curve(self, name: str) -> Curve:
        """A clip fraction of the groups that have a signal: those without one are never clipped, and would dilute it.

        Groups are taken to be of one size, as the metrics do not tell their tokens.
        """
        curve = self.moving_curve(name)
        if not self.compares_groups or not self.loss.zero_advantage_never_clips or not self.has("group/zero_spread"):
            return curve
        flat = dict(self.curves["group/zero_spread"].pairs())
        shares = [1 - flat.get(step, 0.0) for step in curve.steps]
        pairs = zip(curve.values, shares, strict=True)
        return Curve(curve.steps, tuple(min(1.0, value / share) if share > 0 else value for value, share in pairs))

    def updates_per_rollout(self) -> int | None:
        """Optimizer steps on each batch of rollouts; None where the config does not tell."""
        prompts = self.setting("data.train_batch_size")
        mini_batch = self.setting("actor_rollout_ref.actor.ppo_mini_batch_size")
        if not isinstance(prompts, int) or not isinstance(mini_batch, int) or mini_batch < 1:
            return None
        return math.ceil(prompts / mini_batch) * int(self.setting("actor_rollout_ref.actor.ppo_epochs", 1))


def mean(values: Sequence[float]) -> float:
    """The mean of values, at least one."""
    return sum(values) / len(values)
