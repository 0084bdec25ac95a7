"""Where a step's groups come from: the next prompts, sampled and scored; or, filtered, those that teach something.

Dynamic sampling (DAPO, arXiv 2503.14476, section 3.2) leaves out groups whose responses all score the same: such a
group has an advantage of zero, teaches nothing and only thins the batch. A step samples whole batches in the sampler's
order until `data.train_batch_size` groups teach something, at most `algorithm.filter_groups.max_num_gen_batches` of
them and never more than one pass over the data. What is found by then is trained on, if it is one group only; a step
that finds none is an error. Groups beyond the batch are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from gspo.algorithms.stats import Mean, merge_stats
from gspo.config.schema import FilterGroupsConfig
from gspo.data import PromptDataset, PromptSampler
from gspo.data.sampler import shard
from gspo.groups import Group, Response
from gspo.observe import PhaseClock
from gspo.rollout import RolloutEngine, SamplingParams
from gspo.trainer.batching import numbered
from gspo.trainer.critics import Critic, Stats
from gspo.world import World, count

__all__ = ["Collector", "FilteringCollector", "num_tokens", "spreads"]

# What a scorer of the whole run does: sets the outcomes of responses, and returns the figures.
_Score = Callable[[Sequence[Group]], Stats]


class Collector:
    """Samples and scores a group for each prompt of the next batch.

    Args:
        data: the prompts.
        sampler: their order.
        engine: samples.
        sampling: how tokens are drawn.
        n: responses for each prompt.
        rewards: sets the outcomes of responses.
        critic: adds its own term to them.
        clock: times it as `gen` and `reward`.
        world: the ranks; each samples for its own prompts.
        vocabulary: the number of tokens that the policy knows, where the engine is held to it.
    """

    def __init__(
        self,
        *,
        data: PromptDataset,
        sampler: PromptSampler,
        engine: RolloutEngine,
        sampling: SamplingParams,
        n: int,
        rewards: _Score,
        critic: Critic,
        clock: PhaseClock,
        world: World,
        vocabulary: int | None = None,
    ) -> None:
        self._data, self._sampler, self._engine = data, sampler, engine
        self._vocabulary = vocabulary
        self._sampling, self._n = sampling, n
        self._rewards, self._critic = rewards, critic
        self._clock, self._world = clock, world

    def collect(self, step: int) -> tuple[list[Group], Stats, int]:
        """This rank's groups of the next batch, scored, the figures of their scores, and the tokens sampled."""
        groups = self.sample(step)
        return groups, self.score(groups), num_tokens(groups)

    def sample(self, step: int, seen: Container[str] = (), first_place: int = 0) -> list[Group]:
        """Samples a group for each prompt of the next batch, but for those whose uid was seen.

        Args:
            step: the training step.
            seen: uids that were sampled in this step before: draws are keyed by step and prompt, so that a prompt that
                comes again within a step would get the same responses again.
            first_place: the place of the batch's first group among those of the step.
        """
        batch = list(enumerate(self._sampler.next_batch(), first_place))
        own = [(place, self._data[index]) for place, index in shard(batch, self._world.rank, self._world.size)]
        new = [(place, prompt) for place, prompt in own if prompt.uid not in seen]
        with self._clock("gen", total=len(new) * self._n) as ended:
            prompts = [prompt for _, prompt in new]
            groups = self._engine.generate(prompts, self._sampling, n=self._n, step=step, on_ended=ended)
        if self._vocabulary is not None:
            require_known(groups, self._vocabulary)
        for (place, _), group in zip(new, groups, strict=True):
            group.place = place
        return groups

    def score(self, groups: Sequence[Group]) -> Stats:
        """Sets every response's outcome: what the rewards say, and what the critic adds."""
        with self._clock("reward"):
            return {**self._rewards(groups), **self._critic.score(groups)}


class FilteringCollector:
    """Samples batches until enough groups spread.

    Args:
        collector: samples and scores a batch.
        settings: the `algorithm.filter_groups` section.
        wanted: groups to train on, over all ranks.
        batches_per_epoch: batches in one pass over the data.
        say: prints a notice where a step trains on fewer groups than a batch.
        world: the ranks.
    """

    def __init__(
        self,
        collector: Collector,
        settings: FilterGroupsConfig,
        wanted: int,
        batches_per_epoch: int,
        say: Callable[[str], None],
        world: World,
    ) -> None:
        self._collector, self._metric, self._wanted = collector, settings.metric, wanted
        self._most = min(settings.max_num_gen_batches or batches_per_epoch, batches_per_epoch)
        self._say, self._world = say, world

    def collect(self, step: int) -> tuple[list[Group], Stats, int]:
        """This rank's part of the groups to train on, and the figures and tokens of everything that was sampled.

        Those of the scores, `train/num_gen_batches`, `group/zero_spread` (before filtering), `group/surplus` (useful
        groups beyond the batch, a fraction of the groups sampled) and `group/score_unfiltered`, the mean score before
        filtering.

        Raises:
            ValueError: no group spreads.
        """
        sampled: list[Group] = []
        useful: list[Group] = []
        stats: list[Stats] = []
        num_useful = 0
        while num_useful < self._wanted and len(stats) < self._most:
            seen = {group.prompt.uid for group in sampled}
            groups = self._collector.sample(step, seen, first_place=len(stats) * self._wanted)
            stats.append(self._collector.score(groups))
            sampled += groups
            useful += [group for group in groups if spreads(group, self._metric)]
            num_useful = count(self._world, len(useful))
        num_sampled = count(self._world, len(sampled))
        self._judge(num_useful, f"{num_sampled} groups in {len(stats)} batches")
        rewards = [r.reward for group in sampled for r in group.responses if r.reward is not None]
        found: Stats = {
            "train/num_gen_batches": Mean(float(len(stats))),
            "group/zero_spread": Mean(float(len(sampled) - len(useful)), float(len(sampled))),
            "group/surplus": Mean(max(0, num_useful - self._wanted) / self._world.size, float(len(sampled))),
            "group/score_unfiltered": Mean(sum(rewards), float(len(rewards))),
        }
        return self._first(useful), {**merge_stats(stats), **found}, num_tokens(sampled)

    def _first(self, useful: list[Group]) -> list[Group]:
        """Those of this rank's useful groups that are among the first `wanted` of all ranks."""
        numbers = numbered([group.place for group in useful], self._world)
        return [group for group, number in zip(useful, numbers, strict=True) if number < self._wanted]

    def _judge(self, num_useful: int, where: str) -> None:
        if not num_useful:
            raise ValueError(
                f"algorithm.filter_groups: in none of {where} do the responses differ in their {self._metric}, so "
                "there is nothing to learn from: raise algorithm.filter_groups.max_num_gen_batches or "
                "actor_rollout_ref.rollout.n, choose prompts that the model sometimes solves, or set "
                "algorithm.filter_groups.enable=false"
            )
        if num_useful < self._wanted:
            self._say(
                f"algorithm.filter_groups: {num_useful} of {where} teach something; the step trains on those instead "
                f"of {self._wanted}. Raise algorithm.filter_groups.max_num_gen_batches for full batches"
            )


def require_known(groups: Sequence[Group], vocabulary: int) -> None:
    """Checks that responses hold tokens only that the policy gives a probability to.

    Raises:
        ValueError: one does not; names its prompt.
    """
    for group in groups:
        for number, response in enumerate(group.responses):
            largest = max(response.token_ids, default=0)
            if largest >= vocabulary:
                raise ValueError(
                    f"engine: response {number} to {group.prompt.uid} holds the token {largest}, and the policy gives "
                    f"probabilities to the tokens below {vocabulary} only: let the engine sample no others"
                )


def num_tokens(groups: Sequence[Group]) -> int:
    """Tokens of prompts, each once, and of responses."""
    return sum(group.num_tokens for group in groups)


def spreads(group: Group, metric: str) -> bool:
    """Whether the judged responses of a group differ in `metric`: `acc`, or the score under any other name.

    Raises:
        ValueError: `acc` is asked for, and the scorer did not say what is correct.
    """
    return len({_figure(group, response, metric) for response in group.responses if response.reward is not None}) > 1


def _figure(group: Group, response: Response, metric: str) -> float | None:
    assert response.outcome is not None
    if metric != "acc":
        return response.reward
    if "acc" not in response.outcome.extras:
        raise ValueError(
            f"algorithm.filter_groups.metric=acc: the reward function gave no `acc` for {group.prompt.uid}: set "
            "algorithm.filter_groups.metric=score"
        )
    return response.outcome.extras["acc"]
