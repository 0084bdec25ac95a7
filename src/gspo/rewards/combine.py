"""The weighted sum of several rewards, and the figures of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gspo.algorithms.stats import Mean, Stat
from gspo.groups import Outcome
from gspo.rewards.base import Scorer
from gspo.rewards.returned import FLOAT32_MAX

__all__ = ["Judged", "Part", "SteadyNames", "combine", "reward_stats"]


@dataclass(frozen=True)
class Part:
    """One term of the weighted sum."""

    name: str
    weight: float
    scorer: Scorer


Judged = list[tuple[Part, Outcome]]


def combine(outcomes: Judged) -> Outcome:
    """The weighted sum. Where one part failed or abstained there is no sum: a partial one would be another reward.

    An extra keeps its name; where two parts have the same, the later one's is put under `<part>/<name>`.
    The answer is the first that a part read.
    """
    several = len(outcomes) > 1
    for part, outcome in outcomes:
        if outcome.error is not None:
            return Outcome(error=f"{part.name}: {outcome.error}" if several else outcome.error)
    for part, outcome in outcomes:
        if outcome.abstained is not None:
            return Outcome(abstained=f"{part.name}: {outcome.abstained}" if several else outcome.abstained)
    value, extras, answer = 0.0, dict[str, float](), None
    terms = {}
    for part, outcome in outcomes:
        assert outcome.value is not None
        answer = outcome.answer if answer is None else answer
        value += part.weight * outcome.value
        terms[part.name] = (part.weight, outcome.value)
        for name, extra in outcome.extras.items():
            extras[f"{part.name}/{name}" if name in extras else name] = extra
    if abs(value) > FLOAT32_MAX:
        return Outcome(error=f"the weighted sum is {value:g}, beyond float32 (at most {FLOAT32_MAX:.2g})")
    return Outcome(value=value, extras=extras, answer=answer, terms=terms)


class SteadyNames:
    """Gives the figures of every batch the same names: those known from the start, and all that have come since.

    A figure that no response of a batch has is a mean of nothing, which is 0.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(sorted(names))

    def __call__(self, stats: Mapping[str, Stat]) -> dict[str, Stat]:
        self._names |= dict.fromkeys(stats)
        return {name: stats.get(name, Mean(0.0, 0.0)) for name in self._names}


def reward_stats(outcomes: Sequence[Outcome | None], judged: Iterable[Judged]) -> dict[str, Stat]:
    """The figures of a batch: each function's mean, each extra's, and what was abstained from or failed."""
    count = len(outcomes)
    figures: dict[str, list[float]] = defaultdict(list)
    for row in judged:
        for part, outcome in row:
            if outcome.value is not None:
                figures[f"reward/{part.name}/mean"].append(outcome.value)
    for combined in outcomes:
        for name, extra in (combined.extras if combined is not None else {}).items():
            figures[f"reward/{name}"].append(extra)
    abstained = sum(outcome is not None and outcome.abstained is not None for outcome in outcomes)
    errors = sum(outcome is not None and outcome.error is not None for outcome in outcomes)
    return {
        **{name: Mean(sum(values), float(len(values))) for name, values in figures.items()},
        "reward/abstained": Mean(float(abstained), float(count)),
        "reward/errors": Mean(float(errors), float(count)),
    }
