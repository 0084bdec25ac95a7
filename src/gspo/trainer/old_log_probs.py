"""Log-probabilities of a step's responses under the policy before it is updated.

In float32 any cut of the batch into passes gives the same numbers to 1e-5 nats. Where a model computes in 16 bits it
does not: a token's log-probability moves with the tokens that it shares a pass with, by more than GSPO clips at. There
the old ones are taken from the passes that the updates make, so that the ratio of a policy that has not moved is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gspo.algorithms.aggregation import masked_mean
from gspo.algorithms.stats import Mean
from gspo.checkpoint import Checkpoint, Part
from gspo.groups import GroupBatch
from gspo.methods import PolicyLoss
from gspo.models import Policy
from gspo.trainer.batching import Cut, mini_batches_of, over_passes, passes
from gspo.trainer.critics import Stats
from gspo.world import World

__all__ = ["Limits", "OldLogProbs", "add_log_probs", "add_log_probs_of_updates", "old_name", "sampled_entropy"]


# Another order of the same float32 sums differs by about 1e-5 nats; other weights, or a sampler that computes the
# model in another way, by far more.
_TOLERANCE = 1e-3
# Of a clip range: what differs by less clips nothing that the policy's own would not.
_SHARE_OF_A_CLIP = 0.1


@dataclass(frozen=True)
class Limits:
    """How far the samples' log-probabilities may be from the policy's, to stand for them.

    Attributes:
        token: nats, of any token.
        response: nats, of the mean over any response.
    """

    token: float
    response: float

    @classmethod
    def of(cls, loss: PolicyLoss, low: float | None, high: float | None) -> Limits:
        """Those of a loss with this clip range: far below what it clips at."""
        share = _SHARE_OF_A_CLIP * min([bound for bound in (low, high) if bound], default=math.inf)
        return cls(min(_TOLERANCE, math.inf if loss.sequence_clip else share), min(_TOLERANCE, share))


def old_name(epoch: int, cut: Cut) -> str:
    """The batch's tensor that holds the old log-probabilities for an epoch of updates with this cut."""
    return f"old_log_probs_{epoch}" if epoch > 0 and cut.shuffle else "old_log_probs"


@torch.no_grad()
def add_log_probs(batch: GroupBatch, policy: Policy, temperature: float, cut: Cut, world: World) -> Stats:
    """`old_log_probs`: each token's log-probability under the policy before it is updated.

    With a value head on the policy's backbone also `values`, from the same pass.
    """
    read = over_passes(
        batch, cut, world, lambda part: policy.log_probs_and_values(part, temperature, with_entropy=True)
    )
    mask = batch["response_mask"]
    batch["old_log_probs"] = torch.cat([mask[:0], *(log_prob for log_prob, _, _ in read)]).float()
    if policy.has_values:
        batch["values"] = torch.cat([mask[:0], *(value for _, _, value in read if value is not None)])
    return {"actor/entropy": Mean.masked(torch.cat([mask[:0], *(entropy for _, entropy, _ in read)]), mask)}


def add_log_probs_of_updates(
    batch: GroupBatch, policy: Policy, temperature: float, cut: Cut, world: World, step: int
) -> Stats:
    """`add_log_probs` from the very passes that the updates of this step make.

    Epochs whose order differs cut the batch differently: each has its own old log-probabilities (`old_name`). The
    passes run with gradients on, as the updates' do, since a kernel may be chosen by that; no gradient is taken.
    """
    mask = batch["response_mask"]
    stats: Stats = {}
    for epoch in range(cut.epochs if cut.shuffle else 1):
        rows = torch.arange(len(batch), device=mask.device)[:, None].expand_as(mask)
        numbered = GroupBatch(batch.groups, {"response_mask": mask, "row": rows}, batch.group_index)
        old, values, entropies = (torch.zeros_like(mask) for _ in range(3))
        for mini_batch in mini_batches_of(epoch, numbered, cut, world, step):
            for part in passes(mini_batch, cut, world):
                log_prob, entropy, value = policy.log_probs_and_values(part, temperature, with_entropy=True)
                if part.weightless:
                    continue
                place = part["row"][:, 0]
                old[place], entropies[place] = log_prob.detach().float(), entropy.detach().float()
                if value is not None:
                    values[place] = value.detach().to(values)
        batch[old_name(epoch, cut)] = old
        if epoch == 0:
            stats = {"actor/entropy": Mean.masked(entropies, mask)}
            if policy.has_values:
                batch["values"] = values
    return stats


def sampled_entropy(batch: GroupBatch, world: World) -> Stats:
    """`actor/entropy` as the engine measured it; nothing where it did not, for a response of any rank."""
    mask = batch["response_mask"]
    known = [response.entropy for group in batch.groups for response in group.responses]
    measured = [entropy for entropy in known if entropy is not None]
    if world.any(len(measured) < len(known)):
        return {}
    each = torch.tensor(measured, dtype=torch.float64, device=mask.device)
    lengths = mask.sum(-1)
    return {"actor/entropy": Mean((each * lengths).sum(), lengths.sum())}


class OldLogProbs(Part):
    """Where a step's old log-probabilities come from: the samples themselves, or passes of their own.

    Args:
        policy: the policy, before it is updated.
        temperature: at which log-probabilities are taken.
        cut: of such passes, where the policy computes in 32 bits or more.
        updates: how the policy's updates cut a batch: of such passes in 16 bits.
        bypass: `algorithm.rollout_correction.bypass_mode`: whether the samples' serve; None: where a first batch shows
            that they are the policy's.
        limits: how far the samples' may be from the policy's, to serve.
        say: prints a notice.
        world: the ranks.
    """

    def __init__(
        self,
        policy: Policy,
        temperature: float,
        cut: Cut,
        updates: Cut,
        bypass: bool | None,
        limits: Limits,
        say: Callable[[str], None],
        world: World,
    ) -> None:
        self._policy, self._temperature, self._cut, self._updates = policy, temperature, cut, updates
        self._limits, self._say, self._world = limits, say, world
        # In 16 bits samples never serve undecided: sampling lays its tokens out in another way than training.
        self._undecided = bypass is None and not policy.is_narrow
        self._samples_serve = None if self._undecided else bool(bypass)

    def add(self, batch: GroupBatch, step: int) -> Stats:
        """`old_log_probs`, and `actor/entropy`: of the pass where one is made, else of the samples.

        Undecided, a run compares its first batch: where the log-probabilities that came with the samples are those of
        the policy, they serve, in that batch and from then on, and the pass over every batch is saved.
        """
        if not self._samples_serve:
            stats = self._pass(batch, step)
            if self._samples_serve is None:
                self._samples_serve = self._compare(batch)
            if not self._samples_serve:
                return stats
        batch["old_log_probs"] = batch["rollout_log_probs"]
        # The samples' in the first step too: a resumed run logs what an uninterrupted one does.
        return sampled_entropy(batch, self._world)

    def _pass(self, batch: GroupBatch, step: int) -> Stats:
        if self._policy.is_narrow:
            return add_log_probs_of_updates(batch, self._policy, self._temperature, self._updates, self._world, step)
        return add_log_probs(batch, self._policy, self._temperature, self._cut, self._world)

    def _compare(self, batch: GroupBatch) -> bool:
        """Whether the samples' are the policy's, on every rank."""
        mask = batch["response_mask"]
        drift = (batch["old_log_probs"] - batch["rollout_log_probs"]) * mask
        furthest = float(drift.abs().max()) if len(batch) else 0.0
        mean = float(masked_mean(drift, mask, axis=-1).abs().max()) if len(batch) else 0.0
        near = furthest <= self._limits.token and mean <= self._limits.response
        if not self._world.any(not near):
            return True
        how_far = "on another rank" if near else f"by up to {furthest:.1g} nats, {mean:.1g} in a response's mean"
        self._say(
            f"log-probabilities of the samples differ from the policy's {how_far}, so that the old "
            "ones are computed again in every step (algorithm.rollout_correction.bypass_mode=true takes the samples' "
            "all the same)"
        )
        return False

    def state(self, step: int) -> dict[str, Any]:
        """`samples_serve`: what the first batch showed, so that a resumed run does as an uninterrupted one."""
        del step
        return {"samples_serve": self._samples_serve} if self._undecided else {}

    def load(self, checkpoint: Checkpoint) -> None:
        """Takes up what the first batch of the run showed, where this is not set by the configuration."""
        if self._undecided:
            self._samples_serve = checkpoint.state.get("samples_serve")
