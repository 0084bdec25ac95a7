"""Accuracy on held-out prompts: mean, unbiased pass@k and majority vote, by data source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from gspo.groups import Group, Prompt, Response
from gspo.rewards import RewardManager
from gspo.rollout import RolloutEngine, SamplingParams
from gspo.statistics import bootstrap_interval, maj_at_k, pass_at_k, wilson_interval

__all__ = ["SourceResult", "answer_groups", "summarize", "validation_metrics"]

# Validation draws the same random numbers at every step, so that curves show the policy and not the luck of a draw.
_VALIDATION_STEP = 0


@dataclass(frozen=True)
class SourceResult:
    """What one model reached on the prompts of one data source.

    Attributes:
        data_source: the rows' `data_source`.
        num_prompts: prompts with at least one judged response.
        n: responses per prompt.
        accuracy: mean correctness over prompts; the mean score, where the scorer does not say what is correct.
        interval: its 95 % confidence interval.
        is_accuracy: whether the scorer said what is correct (`acc`).
        pass_at: k to the unbiased chance that one of k responses is correct.
        maj_at: k to the expected correctness of the majority of k responses.
        score: mean score.
        length: mean tokens of a response.
        truncated: fraction of responses cut at the length limit.
        unjudged: fraction of responses that a scorer abstained from or failed on; no other figure counts them.
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


def answer_groups(
    engine: RolloutEngine,
    rewards: RewardManager,
    prompts: Sequence[Prompt],
    sampling: SamplingParams,
    *,
    n: int = 1,
    batch_size: int | None = None,
) -> list[Group]:
    """Samples `n` responses for each prompt and scores them, `batch_size` prompts at a time (all at once if None)."""
    groups: list[Group] = []
    size = batch_size or max(1, len(prompts))
    for start in range(0, len(prompts), size):
        batch = engine.generate(prompts[start : start + size], sampling, n=n, step=_VALIDATION_STEP)
        rewards.score(batch)
        groups += batch
    return groups


def summarize(groups: Sequence[Group]) -> list[SourceResult]:
    """The results of scored groups, one a data source, in the order of their names."""
    by_source: defaultdict[str, list[Group]] = defaultdict(list)
    for group in groups:
        by_source[group.prompt.data_source].append(group)
    return [_source_result(source, by_source[source]) for source in sorted(by_source)]


def _source_result(source: str, groups: Sequence[Group]) -> SourceResult:
    responses = [response for group in groups for response in group.responses]
    judged = [[r for r in group.responses if r.reward is not None] for group in groups]
    judged = [part for part in judged if part]
    num_judged = sum(map(len, judged))
    is_accuracy = all("acc" in r.outcome.extras for part in judged for r in part if r.outcome is not None)
    values = [[_correctness(r, is_accuracy) for r in part] for part in judged]
    means = [sum(part) / len(part) for part in values]
    pass_at, maj_at = {}, {}
    n = max((len(group.responses) for group in groups), default=0)
    if is_accuracy and judged:
        smallest = min(map(len, judged))
        ks = [k for k in _powers_of_two(n) if k <= smallest]
        right = [[value >= 1 for value in part] for part in values]
        answers = [[_answer(r) for r in part] for part in judged]
        pass_at = {k: _mean([pass_at_k(len(part), sum(part), k) for part in right]) for k in ks}
        maj_at = {k: _mean([maj_at_k(a, part, k) for a, part in zip(answers, right, strict=True)]) for k in ks}
    return SourceResult(
        data_source=source,
        num_prompts=len(judged),
        n=n,
        accuracy=_mean(means),
        interval=_interval(means, n == 1 and is_accuracy),
        is_accuracy=is_accuracy,
        pass_at=pass_at,
        maj_at=maj_at,
        score=_mean([_mean([r.reward or 0.0 for r in part]) for part in judged]),
        length=_mean([float(len(r)) for r in responses]),
        truncated=_mean([float(r.finish_reason == "length") for r in responses]),
        unjudged=1 - num_judged / len(responses) if responses else 0.0,
    )


def validation_metrics(results: Sequence[SourceResult]) -> dict[str, float]:
    """The results under verl's names, with `pass@k` as the unbiased estimator."""
    metrics: dict[str, float] = {}
    for result in results:
        kind = "acc" if result.is_accuracy else "reward"
        core, aux = f"val-core/{result.data_source}/{kind}", f"val-aux/{result.data_source}"
        if result.num_prompts:
            metrics[f"{core}/mean@{result.n}"] = result.accuracy
            metrics |= {f"{core}/pass@{k}": value for k, value in result.pass_at.items() if k > 1}
            metrics |= {f"{core}/maj@{k}/mean": value for k, value in result.maj_at.items() if k > 1}
            metrics[f"{aux}/score/mean@{result.n}"] = result.score
        metrics[f"{aux}/response_length/mean"] = result.length
        metrics[f"{aux}/response_length/clip_ratio"] = result.truncated
        metrics[f"{aux}/unjudged"] = result.unjudged
    return metrics


def _correctness(response: Response, is_accuracy: bool) -> float:
    assert response.outcome is not None
    assert response.outcome.value is not None
    return response.outcome.extras["acc"] if is_accuracy else response.outcome.value


def _answer(response: Response) -> str | None:
    """What a response votes for: the answer that its scorer read, or its whole text where the scorer names none."""
    assert response.outcome is not None
    return response.outcome.answer if response.outcome.answer is not None else response.text.strip() or None


def _powers_of_two(n: int) -> list[int]:
    powers = [1]
    while powers[-1] * 2 <= n:
        powers.append(powers[-1] * 2)
    return powers if powers[-1] == n else [*powers, n]


def _interval(means: Sequence[float], is_proportion: bool) -> tuple[float, float]:
    if not means:
        return (0.0, 0.0)
    if is_proportion and all(value in (0.0, 1.0) for value in means):
        return wilson_interval(int(sum(means)), len(means))
    return bootstrap_interval(means)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
