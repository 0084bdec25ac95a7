"""How far rounding alone moves the ratio that a policy loss clips.

The same tokens are run in two layouts, as the updates pack them and each response on its own, under weights that do
not move. Exact arithmetic gives a ratio of 1; what is found instead is the noise under every ratio of the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gspo.algorithms.aggregation import masked_mean
from gspo.algorithms.stats import Max
from gspo.groups import GroupBatch
from gspo.methods import PolicyLoss
from gspo.models import Policy
from gspo.trainer.batching import Cut, over_passes
from gspo.trainer.critics import Stats
from gspo.world import World

__all__ = ["RatioNoise"]

# Enough to see the noise's size, in a second for a model that takes minutes for a step.
_NUM_GROUPS, _NUM_RESPONSES = 2, 4


class RatioNoise:
    """Measures the noise at the start of a run, and says what to do where it reaches the clip range.

    Args:
        policy: the policy.
        temperature: at which log-probabilities are taken.
        cut: how its updates cut a batch.
        loss: what is known of the policy loss.
        clip: (low, high), where it clips.
        step: the first step that updates the policy by this loss: that of the measurement.
        say: prints a notice.
        world: the ranks.
    """

    def __init__(
        self,
        policy: Policy,
        temperature: float,
        cut: Cut,
        loss: PolicyLoss,
        clip: tuple[float | None, float | None],
        step: int,
        say: Callable[[str], None],
        world: World,
    ) -> None:
        self._policy, self._temperature, self._cut = policy, temperature, cut
        self._loss, self._clip, self._step = loss, clip, step
        self._say, self._world = say, world

    def at(self, batch: GroupBatch, step: int) -> Stats:
        """`actor/ratio_noise` in the run's first step: the largest |ratio - 1|, of responses or of tokens."""
        if step != self._step:
            return {}
        noise = self._measure(batch)
        limit = min([bound for bound in self._clip if bound], default=float("inf"))
        if self._world.any(noise >= limit):
            self._say(
                f"rounding alone moves the ratio of an unmoved policy by up to {noise:.1g} (actor/ratio_noise), and "
                f"the clip begins at {limit:g}. Old log-probabilities are taken from the updates' own passes, so that "
                "the first update of a step is not clipped by it; later ones are in part. "
                "actor_rollout_ref.model.mixed_precision_dtype=float16 rounds eight times finer than bfloat16, and "
                "mixed_precision=false (with dtype=float32) far finer still"
            )
        return {"actor/ratio_noise": Max(noise)}

    @torch.no_grad()
    def _measure(self, batch: GroupBatch) -> float:
        groups = [replace(group, responses=group.responses[:_NUM_RESPONSES]) for group in batch.groups[:_NUM_GROUPS]]
        few = GroupBatch.from_groups(groups, self._policy.device)
        packed, alone = (self._log_probs(few, cut) for cut in (self._cut, replace(self._cut, max_responses=1)))
        mask = few["response_mask"]
        difference = (packed - alone) * mask
        if self._loss.sequence_clip:
            difference = masked_mean(difference, mask, axis=-1)
        return float(torch.expm1(difference).abs().max()) if len(few) else 0.0

    def _log_probs(self, batch: GroupBatch, cut: Cut) -> Tensor:
        read = over_passes(batch, cut, self._world, lambda part: self._policy.log_probs(part, self._temperature)[0])
        return torch.cat([batch["response_mask"][:0], *read]).float()
