"""How a run does on held-out prompts: accuracy, and the discriminator where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gspo.algorithms.stats import to_floats
from gspo.evaluation.accuracy import answer_groups, summarize, validation_metrics
from gspo.groups import Group, Prompt
from gspo.observe import PhaseClock, SampleWriter
from gspo.rewards import RewardManager
from gspo.rollout import RolloutEngine, SamplingParams
from gspo.trainer.gad.discriminator import Discriminator

__all__ = ["Measure", "Validation", "accuracy", "held_out_pairs"]

# Figures of the responses to held-out prompts, which the rewards have scored.
Measure = Callable[[list[Group]], dict[str, float]]


class Validation:
    """Samples responses to the held-out prompts, scores and measures them. Every rank answers all of them alike.

    Args:
        prompts: the held-out prompts; none are never measured.
        engine: samples.
        rewards: scores.
        sampling: how tokens are drawn.
        n: responses for each prompt.
        batch_size: prompts that are sampled and scored at a time; None takes all at once.
        measures: what is measured, each with names of its own.
        samples: where the first responses are written.
        num_samples: how many groups of them.
        clock: times it as `testing`.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        *,
        engine: RolloutEngine,
        rewards: RewardManager,
        sampling: SamplingParams,
        n: int,
        batch_size: int | None,
        measures: Sequence[Measure],
        samples: SampleWriter,
        num_samples: int,
        clock: PhaseClock,
    ) -> None:
        self._prompts, self._engine, self._rewards = prompts, engine, rewards
        self._sampling, self._n, self._batch_size = sampling, n, batch_size
        self._measures, self._samples, self._num_samples = measures, samples, num_samples
        self._clock = clock

    def __call__(self, step: int) -> dict[str, float]:
        """The figures after a step; nothing without held-out prompts."""
        if not self._prompts:
            return {}
        with self._clock("testing", total=len(self._prompts) * self._n) as ended:
            groups = answer_groups(
                self._engine,
                self._rewards,
                self._prompts,
                self._sampling,
                n=self._n,
                batch_size=self._batch_size,
                on_ended=ended,
            )
            metrics: dict[str, float] = {}
            for measure in self._measures:
                metrics |= measure(groups)
        if self._num_samples:
            self._samples.write(groups[: self._num_samples], step, "val")
        return metrics


def accuracy(rewards: RewardManager) -> Measure:
    """Measures accuracy by data source, as the rewards judge it.

    A source whose rewards once said what is correct keeps the names of accuracy, whatever its later responses are.
    """
    accurate: set[str] = set()

    def measure(groups: list[Group]) -> dict[str, float]:
        for group in groups:
            said = any(r.outcome is not None and "acc" in r.outcome.extras for r in group.responses)
            if said or rewards.says_correct(group.prompt):
                accurate.add(group.prompt.data_source)
        return validation_metrics(summarize(groups, accurate))

    return measure


def held_out_pairs(discriminator: Discriminator, say_once: Callable[[str, str], None], teacher_key: str) -> Measure:
    """Measures a discriminator on the held-out prompts that have a teacher's text."""

    def measure(groups: list[Group]) -> dict[str, float]:
        discriminator.add_teachers(groups)
        taught = [group for group in groups if group.teacher is not None]
        if not taught:
            say_once(
                f"data.val_files have no text in {teacher_key}: the discriminator is not measured on held-out pairs",
                "held-out pairs",
            )
            return {}
        return to_floats(discriminator.held_out(taught, prefix="val-aux/gad"))

    return measure
