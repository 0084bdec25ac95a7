"""What scores and what updates a step: the critic's protocol, and the phases of a run.

A critic is nothing, PPO's value critic (a model of its own, or a head on the actor's) or GAD's discriminator. A phase
says what a range of steps does. Both are chosen once, where the run is set up; the loop asks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gspo.algorithms.stats import Stat
from gspo.groups import Group, GroupBatch

__all__ = ["Critic", "NoCritic", "Phase", "Schedule", "Stats", "nothing", "rest"]

Stats = dict[str, Stat]


class Critic(Protocol):
    """What judges the policy's responses, next to the rewards."""

    def score(self, groups: Sequence[Group]) -> Stats:
        """Adds its own term to the outcomes of freshly sampled responses."""
        ...

    def prepare(self, batch: GroupBatch) -> Stats:
        """Adds what the advantages need of it, from before the step's updates."""
        ...

    def update(self, batch: GroupBatch, groups: Sequence[Group], step: int) -> Stats:
        """Its updates of one step, and its figures.

        Args:
            batch: the responses that are trained on.
            groups: all that were sampled, those without a reward included.
            step: number of the step.
        """
        ...


class NoCritic:
    """The critic of GSPO, GRPO and their relatives: none."""

    def score(self, groups: Sequence[Group]) -> Stats:
        """Rewards are all that judges."""
        del groups
        return {}

    def prepare(self, batch: GroupBatch) -> Stats:
        """There are no values."""
        del batch
        return {}

    def update(self, batch: GroupBatch, groups: Sequence[Group], step: int) -> Stats:
        """There is nothing to update."""
        del batch, groups, step
        return {}


@dataclass(frozen=True)
class Phase:
    """What the steps of one part of a run do.

    Attributes:
        collect: step -> the groups to train on, the figures of what was sampled, and its tokens.
        prepare: (batch, step): takes the batch to advantages; `nothing` where no advantage is used.
        update_policy: (batch, step, whether the entropy is still to be measured) -> figures.
        needs_rewards: whether responses without a reward are left out; where only texts are learned from, they are not.
    """

    collect: Callable[[int], tuple[list[Group], Stats, int]]
    prepare: Callable[[GroupBatch, int], Stats]
    update_policy: Callable[[GroupBatch, int, bool], Stats]
    needs_rewards: bool = True


@dataclass(frozen=True)
class Schedule:
    """Which steps belong to which phase.

    Attributes:
        last: the phase of all steps after those of `before`.
        before: phases with how many steps each takes, in order.
    """

    last: Phase
    before: Sequence[tuple[int, Phase]] = field(default=())

    def at(self, step: int) -> Phase:
        """The phase of a step, counted from 1."""
        end = 0
        for length, phase in self.before:
            end += length
            if step <= end:
                return phase
        return self.last


def nothing(batch: GroupBatch, step: int) -> Stats:
    """The preparation of a phase that uses no advantages."""
    del batch, step
    return {}


def rest(batch: GroupBatch, step: int, with_entropy: bool) -> Stats:
    """The policy's update of a phase that leaves it as it is."""
    del batch, step, with_entropy
    return {}
