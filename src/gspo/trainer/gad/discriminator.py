"""GAD's discriminator in the trainer: the reward that it gives, its updates, and how it does on held-out pairs.

Generative adversarial distillation, arXiv 2511.10643. The critic's model scores whole responses; a step's rewards are
those of the discriminator before the step's update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.algorithms import compute_discriminator_loss
from gspo.algorithms.stats import Mean, merge_stats
from gspo.config.schema import DiscriminatorConfig
from gspo.groups import Group, GroupBatch, Outcome
from gspo.models import Ends
from gspo.observe import PhaseClock
from gspo.trainer.batching import Cut, mini_batches, over_passes, passes
from gspo.trainer.critics import NoCritic, Stats
from gspo.trainer.gad.pairs import overlap_metrics, pair_metrics, teacher_metrics, teachers_by_prompt
from gspo.trainer.gad.schedule import Stages
from gspo.trainer.supervised import add_teachers
from gspo.trainer.trained import TrainedScorer
from gspo.world import World, count

__all__ = ["Discriminator"]


class Discriminator(NoCritic):
    """The discriminator as the critic of a run.

    Args:
        model: its model.
        section: the `critic.discriminator` section.
        weight: `reward.discriminator_weight`, of its score in the reward.
        cut: how its updates cut a batch.
        stages: of the run.
        tokenizer: the student's, which reads the teacher's text.
        ends: of the student's responses, with which the teacher's end too.
        max_response_length: tokens at which a teacher's text is cut.
        clock: times it as `update_critic`.
        world: the ranks.
    """

    def __init__(
        self,
        model: TrainedScorer,
        section: DiscriminatorConfig,
        *,
        weight: float,
        cut: Cut,
        stages: Stages,
        tokenizer: PreTrainedTokenizerBase,
        ends: Ends,
        max_response_length: int,
        clock: PhaseClock,
        world: World,
    ) -> None:
        self.model = model
        self._section, self._weight, self._stages = section, weight, stages
        self._cut, self._pair_cut = cut, cut.beside_teachers()
        self._tokenizer, self._ends, self._limit = tokenizer, ends, max_response_length
        self._clock, self._world = clock, world

    def add_teachers(self, groups: Sequence[Group]) -> None:
        """Sets `teacher` of every group whose prompt has a teacher's text."""
        add_teachers(groups, self._tokenizer, self._limit, self._ends)

    @torch.no_grad()
    def score(self, groups: Sequence[Group]) -> Stats:
        """Adds the discriminator's score, times its weight, to each response's outcome, and the teachers to the groups.

        A response without an outcome has that score alone. One that a function abstained from or failed on stays
        without a reward: a sum of the other parts would be another reward.
        """
        self.add_teachers(groups)
        if not self._world.any(bool(groups)):
            return {}
        scores = self._scores(groups).tolist()
        responses = [response for group in groups for response in group.responses]
        for response, score in zip(responses, scores, strict=True):
            response.outcome = _with_score(response.outcome, score, self._weight)
        return {"reward/discriminator/mean": Mean(sum(scores), float(len(scores)))}

    def update(self, batch: GroupBatch, groups: Sequence[Group], step: int) -> Stats:
        """The discriminator's updates of one step: the teacher's response above each of the student's.

        The figures of a pair are those before the optimizer step that learns from it. Frozen, it is measured only.
        """
        frozen = self._section.freeze_after_warmup and step > self._stages.num_before_adversarial
        with self._clock("update_critic"):
            stats = self.pair_figures(batch.groups) if frozen else self._learn(batch, step)
        seen = pair_metrics(groups, self._ends.turn) | teacher_metrics(groups)
        return {**stats, **seen, "training/gad_stage": Mean(float(self._stages.at(step)))}

    @torch.no_grad()
    def pair_figures(self, groups: Sequence[Group]) -> Stats:
        """The figures of `update` on groups that nothing is learned from."""
        batch = GroupBatch.without_tensors(groups)
        num_pairs = count(self._world, _num_pairs(batch))
        return merge_stats(figures for _, figures in self._losses(batch, num_pairs))

    def held_out(self, groups: Sequence[Group], prefix: str) -> Stats:
        """Everything that is measured on held-out pairs, which the discriminator never learns."""
        figures = self.pair_figures(groups)
        stats: Stats = {name.replace("critic", prefix, 1): stat for name, stat in figures.items()}
        stats |= pair_metrics(groups, self._ends.turn, prefix=prefix)
        stats |= overlap_metrics(groups, prefix=prefix)
        stats |= self.teacher_control(groups, prefix=prefix)
        lengths = [float(len(response)) for group in groups for response in group.responses]
        stats[f"{prefix}/response_length"] = Mean(sum(lengths), float(len(lengths)))
        stats[f"{prefix}/teacher_length"] = teacher_metrics(groups)["teacher_length/mean"]
        return stats

    @torch.no_grad()
    def teacher_control(self, groups: Sequence[Group], prefix: str) -> Stats:
        """The discriminator on pairs of different teacher's responses to the same prompt; nothing without such pairs.

        `teacher_teacher_acc`: how often the earlier row's response scores above the later row's, ties 1/2. Rows that
        were written alike are interchangeable, so it is near 1/2 whatever the discriminator has learned.
        `teacher_teacher_gap`: mean distance of the two scores, to hold `margin` against: what the discriminator makes
        of differences that do not matter.

        Args:
            groups: with their teachers; a prompt of several rows has a group for each.
            prefix: of the names.
        """
        several = teachers_by_prompt(groups)
        if not self._world.any(bool(several)):
            return {}
        own = self._scores(several).split([len(group.responses) for group in several])
        pairs = [torch.combinations(score) for score in own]
        earlier, later = torch.cat(pairs).double().unbind(1) if pairs else (torch.zeros(0), torch.zeros(0))
        above = (earlier > later).double() + 0.5 * (earlier == later)
        return {
            f"{prefix}/teacher_teacher_acc": Mean(above.sum(), float(len(above))),
            f"{prefix}/teacher_teacher_gap": Mean((earlier - later).abs().sum(), float(len(above))),
        }

    def _scores(self, groups: Sequence[Group]) -> Tensor:
        """One score for each response of these groups. (responses,)"""
        batch = GroupBatch.without_tensors(groups)
        scores = over_passes(batch, self._cut, self._world, self.model.scorer.scores)
        return torch.cat(scores) if scores else torch.zeros(0)

    def _learn(self, batch: GroupBatch, step: int) -> Stats:
        stats: list[Stats] = [{"critic/lr": Mean(self.model.lr)}]
        for mini_batch in mini_batches(batch, self._cut, self._world, step):
            num_pairs = count(self._world, _num_pairs(mini_batch))
            if num_pairs == 0:
                continue
            for loss, figures in self._losses(mini_batch, num_pairs):
                self.model.backward(loss)
                stats.append(figures)
            stats.append(self.model.step())
        self.model.advance()
        return merge_stats(stats)

    def _losses(self, batch: GroupBatch, num_pairs: int) -> Iterator[tuple[Tensor, Stats]]:
        """Each pass's share of the loss of the whole batch, and its figures."""
        section = self._section
        for part in passes(batch, self._pair_cut, self._world):
            student, teacher = self.model.scorer.compare(part)
            index = torch.as_tensor(part.group_index, device=student.device)
            counts = not part.weightless
            written = [counts and bool(response.token_ids) for group in part.groups for response in group.responses]
            taught = torch.tensor([_is_taught(group) for group in part.groups], device=student.device)
            yield compute_discriminator_loss(
                student[:, None],
                teacher[index, None],
                torch.tensor(written, device=student.device)[:, None],
                taught[index, None],
                temperature=section.temperature,
                margin=section.margin,
                score_l2=section.score_l2,
                label_smoothing=section.label_smoothing,
                global_batch_size=num_pairs,
                dp_size=self._world.size,
            )


def _with_score(outcome: Outcome | None, score: float, weight: float) -> Outcome:
    own = {"discriminator": (weight, score)}
    if outcome is None:
        return Outcome(weight * score, terms=own)
    if outcome.value is None:
        return outcome
    return Outcome(outcome.value + weight * score, outcome.extras, outcome.answer, terms={**outcome.terms, **own})


def _num_pairs(batch: GroupBatch) -> int:
    """Pairs of a student's and a teacher's response in which neither is empty."""
    return sum(bool(response.token_ids and _is_taught(group)) for group in batch.groups for response in group.responses)


def _is_taught(group: Group) -> bool:
    return group.teacher is not None and bool(group.teacher.token_ids)
