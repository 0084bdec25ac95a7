"""Accuracy on held-out prompts by data source: mean, unbiased pass@k, majority vote, and models compared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from gspo.evaluation.statistics import bootstrap_interval, maj_at_k, pass_at_k, wilson_interval
from gspo.groups import Group, Prompt, Response
from gspo.rewards import RewardManager
from gspo.rollout import RolloutEngine, SamplingParams

__all__ = ["Difference", "SourceResult", "answer_groups", "compare", "summarize", "validation_metrics"]

# Validation draws the same random numbers at every step, so that curves show the policy and not the luck of a draw.
_VALIDATION_STEP = 0
_NO_INTERVAL = (math.nan, math.nan)


@dataclass(frozen=True)
class SourceResult:
    """What one model reached on the prompts of one data source.

    Every prompt weighs the same, however many of its responses were judged. Without any judged response, `accuracy`
    and `score` are NaN.

    Attributes:
        data_source: the rows' `data_source`.
        num_prompts: prompts with at least one judged response.
        n: responses per prompt.
        accuracy: mean correctness over prompts; the mean score, where the scorer does not say what is correct.
        interval: its 95 % confidence interval over prompts; NaN where they tell none (one prompt, or equal scores).
        is_accuracy: whether the scorer says of responses whether they are correct (`acc`); one that it does not say it
            of, next to others, counts as not correct.
        pass_at: k to the unbiased chance that one of k responses is correct, for the powers of two up to n and n
            itself, over the prompts that have k judged responses; NaN without one.
        maj_at: k, the same ones, to the expected correctness of the majority of the first k responses.
        score: mean score.
        length: mean tokens of a response.
        truncated: fraction of responses cut at the length limit.
        unjudged: fraction of responses that a scorer abstained from or failed on; accuracy, score, pass@k and maj@k
            leave them out.
    """

    data_source: str
    num_prompts: int
    n: int
    accuracy: float
    interval: tuple[float, float]
    is_accuracy: bool
    pass_at: dict[int, float]
    maj_at: dict[int, float]
    score: float
    length: float
    truncated: float
    unjudged: float


@dataclass(frozen=True)
class Difference:
    """How far one model is above another on the same prompts of one data source.

    Attributes:
        data_source: the rows' `data_source`.
        num_prompts: prompts with a judged response of both models.
        difference: mean over prompts of the model's correctness (or score) less the other's; NaN without a prompt.
        interval: its 95 % bootstrap interval over prompts; NaN where all differ alike, or there is one prompt only.
    """

    data_source: str
    num_prompts: int
    difference: float
    interval: tuple[float, float]


def answer_groups(
    engine: RolloutEngine,
    rewards: RewardManager,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    *,
    n: int = 1,
    batch_size: int | None = None,
    on_ended: Callable[[int], None] | None = None,
) -> list[Group]:
    """Samples `n` responses for each prompt and scores them.

    Args:
        engine: samples; its random draws depend on the prompts only, not on how they are batched.
        rewards: scores.
        prompts: what is asked; groups come back in this order.
        sampling: how tokens are drawn.
        n: responses for each prompt.
        batch_size: prompts that are sampled and scored at a time; None takes all at once.
        on_ended: called with the number of responses that have ended since it was called last.
    """
    groups: list[Group] = []
    size = batch_size or max(1, len(prompts))
    for start in range(0, len(prompts), size):
        batch = engine.generate(prompts[start : start + size], sampling, n=n, step=_VALIDATION_STEP, on_ended=on_ended)
        rewards.score(batch)
        groups += batch
    return groups


def summarize(groups: Sequence[Group], accurate: Collection[str] = ()) -> list[SourceResult]:
    """The results of scored groups, one a data source, in the order of their names.

    Args:
        groups: with the outcome of each response.
        accurate: data sources whose scorer is known to say what is correct, whether or not it does here.
    """
    return [_source_result(source, part, source in accurate) for source, part in sorted(_by_source(groups).items())]


def compare(groups: Sequence[Group], others: Sequence[Group]) -> list[Difference]:
    """How far the model that wrote `groups` is above the one that wrote `others`, by data source.

    Prompts are paired by their uid, which takes the prompts' own difficulty out of the interval: it is much narrower
    than the two models' intervals suggest.
    """
    differences = []
    theirs = _by_source(others)
    for source, mine in sorted(_by_source(groups).items()):
        counterparts = {group.prompt.uid: _judged(group) for group in theirs.get(source, [])}
        pairs = [(_judged(group), counterparts.get(group.prompt.uid, [])) for group in mine]
        pairs = [(own, other) for own, other in pairs if own and other]
        is_accuracy = _says_correct([response for own, other in pairs for response in (*own, *other)])
        values = [_mean(_values(own, is_accuracy)) - _mean(_values(other, is_accuracy)) for own, other in pairs]
        differences.append(Difference(source, len(values), _mean(values), _bootstrap(values)))
    return differences


def validation_metrics(results: Sequence[SourceResult]) -> dict[str, float]:
    """The results under verl's names, with `pass@k` as the unbiased estimator.

    The names depend on the data sources, the number of responses and whether accuracy is known, not on which responses
    were judged: without any, a figure is NaN.
    """
    metrics: dict[str, float] = {}
    for result in results:
        kind = "acc" if result.is_accuracy else "reward"
        core, aux = f"val-core/{result.data_source}/{kind}", f"val-aux/{result.data_source}"
        metrics[f"{core}/mean@{result.n}"] = result.accuracy
        metrics |= {f"{core}/pass@{k}": value for k, value in result.pass_at.items() if k > 1}
        metrics |= {f"{core}/maj@{k}/mean": value for k, value in result.maj_at.items() if k > 1}
        metrics[f"{aux}/score/mean@{result.n}"] = result.score
        metrics[f"{aux}/response_length/mean"] = result.length
        metrics[f"{aux}/response_length/clip_ratio"] = result.truncated
        metrics[f"{aux}/unjudged"] = result.unjudged
    return metrics


def _source_result(source: str, groups: Sequence[Group], accurate: bool) -> SourceResult:
    responses = [response for group in groups for response in group.responses]
    judged = [part for part in map(_judged, groups) if part]
    is_accuracy = accurate or _says_correct([response for part in judged for response in part])
    means = [_mean(_values(part, is_accuracy)) for part in judged]
    n = max((len(group.responses) for group in groups), default=0)
    pass_at, maj_at = _at_k(judged, n) if is_accuracy else ({}, {})
    return SourceResult(
        data_source=source,
        num_prompts=len(judged),
        n=n,
        accuracy=_mean(means),
        interval=_interval(means, is_accuracy),
        is_accuracy=is_accuracy,
        pass_at=pass_at,
        maj_at=maj_at,
        score=_mean([_mean(_values(part, False)) for part in judged]),
        length=_mean([float(len(response)) for response in responses]),
        truncated=_mean([float(response.finish_reason == "length") for response in responses]),
        unjudged=1 - sum(map(len, judged)) / len(responses) if responses else 0.0,
    )


def _at_k(judged: Sequence[Sequence[Response]], n: int) -> tuple[dict[int, float], dict[int, float]]:
    """pass@k and maj@k, each over the prompts that have k judged responses."""
    right = [[value >= 1 for value in _values(part, True)] for part in judged]
    answers = _answers(judged)
    ks = _powers_of_two(n)
    pairs = list(zip(answers, right, strict=True))
    return (
        {k: _mean([pass_at_k(len(part), sum(part), k) for part in right if len(part) >= k]) for k in ks},
        {k: _mean([maj_at_k(a, part, k) for a, part in pairs if len(part) >= k]) for k in ks},
    )


def _answers(judged: Sequence[Sequence[Response]]) -> list[list[str | None]]:
    """What each response votes for; None where it has no answer.

    A vote is the answer that the scorer read. Where the scorer never names one, it is the response's whole text.
    """
    read = [[None if r.outcome is None else r.outcome.answer for r in part] for part in judged]
    if all(answer is None for part in read for answer in part):
        read = [[r.text for r in part] for part in judged]
    return [[(answer or "").strip() or None for answer in part] for part in read]


def _by_source(groups: Sequence[Group]) -> dict[str, list[Group]]:
    by_source: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_source[group.prompt.data_source].append(group)
    return by_source


def _judged(group: Group) -> list[Response]:
    return [response for response in group.responses if response.reward is not None]


def _says_correct(responses: Sequence[Response]) -> bool:
    return any(response.outcome is not None and "acc" in response.outcome.extras for response in responses)


def _values(judged: Sequence[Response], is_accuracy: bool) -> list[float]:
    """The correctness, or else the score, of responses that all have a reward."""
    outcomes = [response.outcome for response in judged if response.outcome is not None]
    return [outcome.extras.get("acc", 0.0) if is_accuracy else outcome.value or 0.0 for outcome in outcomes]


def _powers_of_two(n: int) -> list[int]:
    powers = [1]
    while powers[-1] * 2 <= n:
        powers.append(powers[-1] * 2)
    return powers if powers[-1] == n else [*powers, n]


def _interval(means: Sequence[float], is_accuracy: bool) -> tuple[float, float]:
    """The 95 % interval of the mean over prompts.

    Where each prompt is all right or all wrong (one response, or greedy ones), prompts are trials and Wilson's interval
    holds; the bootstrap would be certain of an accuracy of 0 or 1. Else the bootstrap over prompts.
    """
    if means and is_accuracy and all(value in (0.0, 1.0) for value in means):
        return wilson_interval(int(sum(means)), len(means))
    return _bootstrap(means)


def _bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """The bootstrap over prompts. Resamples of equal figures are all alike and say nothing: then there is none."""
    return bootstrap_interval(values) if len(set(values)) > 1 else _NO_INTERVAL


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
