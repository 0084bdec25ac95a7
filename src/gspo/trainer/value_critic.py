"""PPO's critic: values before a step's updates, and its updates towards the returns.

`ValueCritic` is a model of its own. `SharedValueHead` is a head on the actor's: it learns in the actor's update, from
the same pass, with the loss policy's + c1 value's (arXiv 1707.06347, eq. 9), and alone while the policy rests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gspo.algorithms import compute_value_loss, explained_variance, explained_variance_sums
from gspo.algorithms.stats import Derived, Mean, Stat, merge_stats
from gspo.config.schema import CriticConfig
from gspo.groups import Group, GroupBatch
from gspo.observe import PhaseClock
from gspo.trainer.batching import Counts, Cut, counted, mini_batches, over_passes, passes
from gspo.trainer.critics import NoCritic, Stats
from gspo.trainer.trained import Actor, Trained, TrainedScorer
from gspo.world import World

__all__ = ["SharedValueHead", "ValueCritic", "ValueLoss", "explained"]


class ValueLoss:
    """The clipped value loss of a pass, as `critic` sets it."""

    def __init__(self, section: CriticConfig) -> None:
        self._section = section

    def share(self, vpreds: Tensor, part: GroupBatch, counts: Counts, num_parts: int) -> tuple[Tensor, Stats]:
        """A pass's share of the loss of an optimizer batch, and its figures.

        Args:
            vpreds: its values, with gradient. (responses, width)
            part: its responses, with `returns` and the `values` from before the step's updates.
            counts: of the optimizer batch, whose tokens and responses normalise.
            num_parts: how many passes the optimizer batch has.
        """
        mask = part["response_mask"]
        loss, clipped = compute_value_loss(
            vpreds=vpreds,
            returns=part["returns"],
            values=part["values"],
            response_mask=mask,
            cliprange_value=self._section.cliprange_value,
            loss_agg_mode=self._section.loss_agg_mode,
            dp_size=counts.num_ranks,
            batch_num_tokens=counts.num_tokens,
            global_batch_size=counts.num_sequences,
            loss_scale_factor=self._section.loss_scale_factor,
        )
        return loss, {
            "critic/vf_loss": Mean(loss.detach(), 1 / num_parts),  # the passes add up to one loss of count one
            "critic/vf_clipfrac": clipped,
            "critic/vpred_mean": Mean.masked(vpreds, mask),
        }

    def step(
        self,
        mini_batch: GroupBatch,
        values: Callable[[GroupBatch], Tensor],
        trained: Trained,
        cut: Cut,
        world: World,
        weight: float = 1.0,
    ) -> list[Stats]:
        """An optimizer step on `weight` times the loss; none where no token counts. Figures of its passes and its own.

        Args:
            mini_batch: this rank's part of the optimizer batch.
            values: gives a pass's values, with gradient.
            trained: what learns.
            cut: how the batch is cut into passes.
            world: the ranks.
            weight: of the loss.
        """
        counts = counted(mini_batch["response_mask"], world)
        if not bool(counts.num_tokens):
            return []
        stats = []
        parts = passes(mini_batch, cut, world)
        for part in parts:
            loss, figures = self.share(values(part), part, counts, len(parts))
            trained.backward(weight * loss)
            stats.append(figures)
        return [*stats, trained.step()]


def explained(batch: GroupBatch) -> Stats:
    """`critic/vf_explained_var`: of the values that the advantages were formed with, before the updates."""
    mask = batch["response_mask"]
    if not bool(mask.any()):
        return {}
    means = explained_variance_sums(batch["values"], batch["returns"], mask)
    names = list(means)
    sums = torch.stack([torch.as_tensor(part) for name in names for part in _sum_and_count(means[name])])

    def figure(sums: Tensor) -> float:
        pairs = sums.view(-1, 2)
        return explained_variance({name: Mean(*pair) for name, pair in zip(names, pairs.unbind(), strict=True)})

    return {"critic/vf_explained_var": Derived(sums, figure)}


def _sum_and_count(mean: Stat) -> tuple[Tensor, Tensor]:
    assert isinstance(mean, Mean)
    return torch.as_tensor(mean.total).double(), torch.as_tensor(mean.count).double()


class ValueCritic(NoCritic):
    """A value critic with a model of its own.

    Args:
        model: the critic's model.
        section: the `critic` section.
        cut: how its updates cut a batch.
        clock: times it as `values` and `update_critic`.
        world: the ranks.
    """

    def __init__(self, model: TrainedScorer, section: CriticConfig, cut: Cut, clock: PhaseClock, world: World) -> None:
        self.model = model
        self._loss, self._cut, self._clock, self._world = ValueLoss(section), cut, clock, world

    @torch.no_grad()
    def prepare(self, batch: GroupBatch) -> Stats:
        """`values`: what the critic expects at each token before it is updated."""
        with self._clock("values"):
            values = over_passes(batch, self._cut, self._world, self.model.scorer.values)
            batch["values"] = torch.cat(values) if values else torch.zeros_like(batch["response_mask"])
        return {}

    def update(self, batch: GroupBatch, groups: Sequence[Group], step: int) -> Stats:
        """The critic's updates of one step, towards `returns`."""
        del groups
        with self._clock("update_critic"):
            stats: list[Stats] = [{"critic/lr": Mean(self.model.lr)}, explained(batch)]
            for mini_batch in mini_batches(batch, self._cut, self._world, step):
                stats += self._loss.step(mini_batch, self.model.scorer.values, self.model, self._cut, self._world)
            self.model.advance()
        return merge_stats(stats)


class SharedValueHead(NoCritic):
    """A value head on the actor's backbone: its values come with the old log-probabilities, from one pass.

    Args:
        actor: with the head.
        section: the `critic` section.
        cut: how the actor's updates cut a batch.
        clock: times the head's own updates as `update_critic`.
        world: the ranks.
    """

    def __init__(self, actor: Actor, section: CriticConfig, cut: Cut, clock: PhaseClock, world: World) -> None:
        self.loss = ValueLoss(section)
        self.weight = section.value_loss_coef
        self._actor, self._cut, self._clock, self._world = actor, cut, clock, world

    def update(self, batch: GroupBatch, groups: Sequence[Group], step: int) -> Stats:
        """Its figures; the updates are the actor's."""
        del groups, step
        return explained(batch)

    def update_alone(self, batch: GroupBatch, step: int, with_entropy: bool) -> Stats:
        """The head's updates of one step of `trainer.critic_warmup`; the model stays as it is, to the bit.

        Mini-batches and passes over them are the actor's; the learning rate is the actor's peak, outside of its
        schedule.
        """
        del with_entropy
        lr = self._actor.peak_lr
        stats: list[Stats] = [{"actor/lr": Mean(lr)}]
        with self._clock("update_critic"), self._actor.constant_rate(lr):
            for mini_batch in mini_batches(batch, self._cut, self._world, step):
                stats += self.loss.step(
                    mini_batch, self._actor.policy.values, self._actor, self._cut, self._world, self.weight
                )
        return merge_stats(stats)
