"""Dynamic sampling: groups whose responses all score the same are left out, and further prompts sampled for them.

DAPO, arXiv 2503.14476, section 3.2. Such a group has an advantage of zero: it teaches nothing and only thins the batch.
A step samples whole batches in the sampler's order until `data.train_batch_size` groups teach something, at most
`algorithm.filter_groups.max_num_gen_batches` of them and never more than one pass over the data. What is found by then
is trained on, if it is one group only; a step that finds none is an error. Groups beyond the batch are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gspo.algorithms.stats import Mean, Stat, merge_stats
from gspo.config import Config
from gspo.groups import Group, Response

__all__ = ["sample_useful", "spreads"]


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


def sample_useful(
    collect: Callable[[set[str]], list[Group]],
    score: Callable[[Sequence[Group]], dict[str, Stat]],
    config: Config,
    batches_per_epoch: int,
    say: Callable[[str], None],
) -> tuple[list[Group], dict[str, Stat]]:
    """Samples and scores batches until enough groups spread.

    Args:
        collect: samples the next batch, without the prompts whose uids it is given: draws are keyed by step and
            prompt, so that a prompt that comes again within a step would get the same responses again.
        score: sets the outcomes of its responses.
        config: `algorithm.filter_groups` and `data.train_batch_size`.
        batches_per_epoch: batches in one pass over the data.
        say: told when a step trains on fewer groups than a batch.

    Returns:
        The groups to train on, and the metrics of everything that was sampled: those of `score`,
        `train/num_gen_batches`, `group/zero_spread` (before filtering), `group/surplus` (useful groups beyond the
        batch, a fraction of the groups sampled) and `group/score_unfiltered`, the mean score before filtering.

    Raises:
        ValueError: no group spreads.
    """
    settings, wanted = config.algorithm.filter_groups, config.data.train_batch_size
    most = min(settings.max_num_gen_batches or batches_per_epoch, batches_per_epoch)
    sampled: list[Group] = []
    useful: list[Group] = []
    stats: list[dict[str, Stat]] = []
    while len(useful) < wanted and len(stats) < most:
        groups = collect({group.prompt.uid for group in sampled})
        stats.append(score(groups))
        sampled += groups
        useful += [group for group in groups if spreads(group, settings.metric)]
    where = f"{len(sampled)} groups in {len(stats)} batches"
    if not useful:
        raise ValueError(
            f"algorithm.filter_groups: in none of {where} do the responses differ in their {settings.metric}, so there "
            "is nothing to learn from: raise algorithm.filter_groups.max_num_gen_batches or "
            "actor_rollout_ref.rollout.n, choose prompts that the model sometimes solves, or set "
            "algorithm.filter_groups.enable=false"
        )
    if len(useful) < wanted:
        say(
            f"algorithm.filter_groups: {len(useful)} of {where} teach something; the step trains on those instead of "
            f"{wanted}. Raise algorithm.filter_groups.max_num_gen_batches for full batches"
        )
    total = float(len(sampled))
    rewards = [r.reward for group in sampled for r in group.responses if r.reward is not None]
    found: dict[str, Stat] = {
        "train/num_gen_batches": Mean(float(len(stats))),
        "group/zero_spread": Mean(float(sum(not spreads(group, settings.metric) for group in sampled)), total),
        "group/surplus": Mean(float(max(0, len(useful) - wanted)), total),
        "group/score_unfiltered": Mean(sum(rewards), float(len(rewards))),
    }
    return useful[:wanted], {**merge_stats(stats), **found}
