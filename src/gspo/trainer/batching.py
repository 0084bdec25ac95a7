"""How a step's groups are cut: into optimizer batches, and those into passes through a model.

An optimizer batch is of `ppo_mini_batch_size` prompts over all ranks, whoever holds them: the groups of all ranks have
one numbering, in which the cuts are made, and each rank takes its own part. Every rank makes the same number of passes;
one that has fewer groups adds passes that count nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from gspo.config.schema import ActorConfig, CriticConfig
from gspo.groups import Group, GroupBatch, Prompt, Response
from gspo.models import micro_batches
from gspo.world import World, count

__all__ = ["Counts", "Cut", "counted", "mini_batches", "mini_batches_of", "numbered", "over_passes", "passes"]

Reading = TypeVar("Reading")


@dataclass(frozen=True)
class Cut:
    """How one model's updates cut a batch.

    Attributes:
        max_tokens: unique tokens of a pass.
        max_responses: responses of a pass; None: as many as fit.
        size: prompts of an optimizer batch, over all ranks; None: all of the step.
        epochs: passes over the step's groups.
        shuffle: whether each epoch draws an order of its own.
        seed: of these orders.
        with_teacher: whether the groups' teachers pass through the model, too.
    """

    max_tokens: int
    max_responses: int | None = None
    size: int | None = None
    epochs: int = 1
    shuffle: bool = False
    seed: int = 0
    with_teacher: bool = False

    @classmethod
    def into_passes(cls, section: ActorConfig) -> Cut:
        """The actor's, of a step that is one optimizer batch."""
        max_responses = None if section.use_dynamic_bsz else section.ppo_micro_batch_size_per_gpu
        return cls(section.ppo_max_token_len_per_gpu, max_responses)

    @classmethod
    def of_actor(cls, section: ActorConfig, seed: int) -> Cut:
        """The actor's."""
        return replace(
            cls.into_passes(section),
            size=section.ppo_mini_batch_size,
            epochs=section.ppo_epochs,
            shuffle=section.shuffle,
            seed=seed,
        )

    @classmethod
    def of_critic(cls, section: CriticConfig, seed: int) -> Cut:
        """The critic's or discriminator's."""
        return cls(
            section.ppo_max_token_len_per_gpu,
            section.ppo_micro_batch_size_per_gpu,
            section.ppo_mini_batch_size,
            section.ppo_epochs,
            section.shuffle,
            seed,
        )

    def beside_teachers(self) -> Cut:
        """The same cut, of passes in which the teachers take part."""
        return replace(self, with_teacher=True)

    def updates(self, num_groups: int) -> int:
        """Optimizer batches of a step with so many groups."""
        return self.epochs * -(-num_groups // (self.size or max(1, num_groups)))

    def order(self, num_groups: int, step: int, epoch: int) -> np.ndarray:
        """The order in which an epoch takes the groups."""
        if not self.shuffle:
            return np.arange(num_groups)
        return np.random.default_rng([self.seed, step, epoch]).permutation(num_groups)


def mini_batches(batch: GroupBatch, cut: Cut, world: World, step: int) -> Iterator[GroupBatch]:
    """This rank's part of each optimizer batch of a step; it may be without groups where other ranks have some.

    Args:
        batch: this rank's groups, each with its place among those that all ranks sampled.
        cut: how they are cut.
        world: the ranks.
        step: number of the step, of which a shuffled order is drawn.
    """
    for epoch in range(cut.epochs):
        yield from mini_batches_of(epoch, batch, cut, world, step)


def mini_batches_of(epoch: int, batch: GroupBatch, cut: Cut, world: World, step: int) -> Iterator[GroupBatch]:
    """`mini_batches` of one epoch, counted from 0."""
    places = [group.place for group in batch.groups]
    own = {number: index for index, number in enumerate(numbered(places, world))}
    total = count(world, len(places))
    size = cut.size or max(1, total)
    order = cut.order(total, step, epoch).tolist()
    for start in range(0, total, size):
        yield batch.select([own[number] for number in order[start : start + size] if number in own])


def numbered(places: Sequence[int], world: World) -> list[int]:
    """The number, from 0, of each of this rank's groups among the groups of all ranks that are left of a step.

    Args:
        places: the place of each own group among those that all ranks sampled; in one process they are in order.
        world: the ranks.
    """
    if world.size == 1:
        return list(range(len(places)))
    taken = torch.zeros(world.most(max(places, default=-1) + 1), dtype=torch.int64)
    taken[list(places)] = 1
    numbers = world.sum(taken).cumsum(0) - 1
    return [int(numbers[place]) for place in places]


def over_passes(batch: GroupBatch, cut: Cut, world: World, read: Callable[[GroupBatch], Reading]) -> list[Reading]:
    """What each pass over a batch gives, of the passes that count."""
    readings = [(read(part), part.weightless) for part in passes(batch, cut, world)]
    return [reading for reading, weightless in readings if not weightless]


def passes(
    batch: GroupBatch, cut: Cut, world: World, counts: Callable[[GroupBatch], bool] | None = None
) -> list[GroupBatch]:
    """The parts of a batch that pass through a model one after the other; as many on every rank.

    Args:
        batch: this rank's groups.
        cut: how they are cut.
        world: the ranks.
        counts: which parts are made; None: all. Where no rank has such a part, each makes its first.
    """
    parts = list(micro_batches(batch, cut.max_tokens, cut.max_responses, with_teacher=cut.with_teacher))
    if counts is not None:
        chosen = [part for part in parts if counts(part)]
        parts = chosen if world.any(bool(chosen)) else parts[:1]
    missing = world.most(len(parts)) - len(parts)
    return [*parts, *[_without_weight(batch)] * missing]


def _without_weight(like: GroupBatch) -> GroupBatch:
    """A batch of one response that counts nowhere: its pass keeps this rank in step with the others."""
    nothing = Response([0], [0.0], "", "stop")
    group = Group(Prompt("no weight:0", (0,), "", ""), [nothing], nothing)
    tensors = {name: tensor.new_zeros(1, max(1, tensor.shape[1])) for name, tensor in like.tensors.items()}
    return GroupBatch([group], tensors, np.zeros(1, dtype=np.int64), weightless=True)


@dataclass(frozen=True)
class Counts:
    """What an optimizer batch is normalised by, over all ranks.

    Attributes:
        num_tokens: tokens that count.
        num_sequences: responses with such a token.
        num_ranks: whose gradients are averaged.
    """

    num_tokens: Tensor
    num_sequences: Tensor
    num_ranks: int

    def normalisers(self) -> dict[str, Any]:
        """As `agg_loss` names them."""
        return {
            "dp_size": self.num_ranks,
            "batch_num_tokens": self.num_tokens,
            "global_batch_size": self.num_sequences,
        }


def counted(mask: Tensor, world: World) -> Counts:
    """The counts of an optimizer batch of which this rank holds the part with this mask. (responses, width)"""
    return Counts(world.sum(mask.sum()), world.sum((mask.sum(-1) > 0).sum()), world.size)
