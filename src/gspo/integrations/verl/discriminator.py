"""The discriminator on verl's critic workers: the scores of a batch, and its optimizer steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from verl.protocol import DataProtoFuture
from verl.utils import tensordict_utils as tu

from gspo.integrations.verl.pairs import group_slices, pair_loss
from gspo.integrations.verl.rows import Cut, Row, Rows
from gspo.integrations.verl.settings import GadSettings

__all__ = ["Discriminator", "arrived"]


class Discriminator:
    """Scores a step's responses and learns from them.

    Args:
        workers: verl's critic worker group, whose loss is `gspo.integrations.verl.losses.discriminator_loss`.
        settings: the section `gad`.
        cut: how the workers cut a batch.
        prompts_per_step: of one optimizer step, `critic.ppo_mini_batch_size`.
        epochs: over a batch, `critic.ppo_epochs`.
    """

    def __init__(self, workers: Any, settings: GadSettings, cut: Cut, prompts_per_step: int, epochs: int = 1) -> None:
        self._workers, self._settings, self._cut = workers, settings, cut
        self._prompts_per_step, self._epochs = prompts_per_step, epochs
        self._students: list[Row] = []
        self._teachers: list[Row] = []
        self._group_index: list[int] = []
        self._scores = torch.zeros(0)

    def score(self, students: Sequence[Row], teachers: Sequence[Row], group_index: Sequence[int]) -> list[Tensor]:
        """The values of the students' tokens, prompts included, of the discriminator as it is; the last is the score.

        Args:
            students: the responses of a step.
            teachers: one for each prompt.
            group_index: which prompt a response belongs to, counted from 0.
        """
        self._students, self._teachers, self._group_index = list(students), list(teachers), list(group_index)
        values = self._infer([*students, *teachers])
        self._scores = _last(values)
        return values[: len(students)]

    def update(self) -> dict[str, float]:
        """The optimizer steps on what was scored last, and their figures.

        The first step takes the scores that the rewards were made of. Any further one scores its pairs anew, because
        the weights of its loss are those of the discriminator before that step: it is exact with several, too.
        """
        slices = group_slices(self._group_index, self._prompts_per_step) * self._epochs
        figures = []
        for number, (places, prompts) in enumerate(slices):
            rows = [*(self._students[place] for place in places), *(self._teachers[prompt] for prompt in prompts)]
            if number == 0:
                taken = [*places, *(len(self._students) + prompt for prompt in prompts)]
                scores = self._scores[taken]
            else:
                scores = _last(self._infer(rows))
            index = torch.tensor([self._group_index[place] - prompts[0] for place in places])
            pairs = pair_loss(scores[: len(places)], scores[len(places) :], index, **self._settings.loss)
            weights = torch.cat([pairs.student_weights, pairs.teacher_weights]).tolist()
            weighted = [replace(row, weight=weight) for row, weight in zip(rows, weights, strict=True)]
            own = self._train(weighted, is_last=number == len(slices) - 1)
            figures.append((len(places), {**pairs.metrics, **own}))
        return _means(figures)

    def _infer(self, rows: Sequence[Row]) -> list[Tensor]:
        """The value at every token of each row."""
        sent = Rows(rows, self._cut.dp_size, self._cut.multiple)
        output = arrived(self._workers.infer_batch(sent.batch(compute_loss=False, temperature=1.0, **self._cut.keys())))
        return sent.restore(output["values"])

    def _train(self, rows: Sequence[Row], is_last: bool) -> dict[str, float]:
        """One optimizer step; the learning rate's schedule moves on behind the last of a batch, as verl's does."""
        sent = Rows(rows, self._cut.dp_size, self._cut.multiple)
        keys = {"temperature": 1.0, "update_lr_scheduler": is_last, **self._cut.keys()}
        figures = tu.get(arrived(self._workers.train_batch(sent.batch(**keys))), "metrics")
        names = {"grad_norm": "critic/grad_norm", "lr": "critic/lr", "mfu": "perf/mfu/critic"}
        return {name: float(figures[key]) for key, name in names.items() if key in figures}


def arrived(output: Any) -> Any:
    """A worker group's result: what a call that did not wait for it stands for."""
    return output.get() if isinstance(output, DataProtoFuture) else output


def _last(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([value[-1] for value in values]).float()


def _means(figures: Sequence[tuple[int, dict[str, float]]]) -> dict[str, float]:
    """Means over the steps, weighted by their pairs; a step without a figure does not count in it."""
    names = dict.fromkeys(name for _, own in figures for name in own)
    means = {}
    for name in names:
        own = [(count, values[name]) for count, values in figures if name in values]
        means[name] = sum(count * value for count, value in own) / sum(count for count, _ in own)
    return means
