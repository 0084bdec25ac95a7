"""GAD's discriminator in the trainer: the reward that it gives, its updates, and how it does on held-out pairs.

Generative adversarial distillation, arXiv 2511.10643. The critic's model scores whole responses; a step's rewards are
those of the discriminator before the step's update.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from gspo.algorithms import compute_discriminator_loss
from gspo.algorithms.stats import Mean, Stat, merge_stats
from gspo.config import Config
from gspo.groups import Group, GroupBatch, Outcome
from gspo.models import micro_batches
from gspo.trainer.critic import Critic
from gspo.trainer.pairs import teachers_by_prompt
from gspo.trainer.stages import mini_batches

__all__ = ["add_discriminator_rewards", "pair_figures", "teacher_control", "update_discriminator"]


@torch.no_grad()
def add_discriminator_rewards(groups: Sequence[Group], critic: Critic, config: Config) -> dict[str, Stat]:
    """Adds the discriminator's score, times `reward.discriminator_weight`, to each response's outcome.

    A response without an outcome has that score alone. One that a function abstained from or failed on stays without a
    reward: a sum of the other parts would be another reward.
    """
    if not groups:
        return {}
    batch = GroupBatch.from_groups(groups, critic.scorer.device, scored=False)
    parts = micro_batches(batch, config.critic.ppo_max_token_len_per_gpu, config.critic.ppo_micro_batch_size_per_gpu)
    scores = torch.cat([critic.scorer.scores(part) for part in parts]).tolist()
    responses = [response for group in groups for response in group.responses]
    for response, score in zip(responses, scores, strict=True):
        response.outcome = _with_score(response.outcome, score, config.reward.discriminator_weight)
    return {"reward/discriminator/mean": Mean(sum(scores), float(len(scores)))}


def _with_score(outcome: Outcome | None, score: float, weight: float) -> Outcome:
    own = {"discriminator": (weight, score)}
    if outcome is None:
        return Outcome(weight * score, terms=own)
    if outcome.value is None:
        return outcome
    return Outcome(outcome.value + weight * score, outcome.extras, outcome.answer, terms={**outcome.terms, **own})


def update_discriminator(batch: GroupBatch, critic: Critic, config: Config, step: int) -> dict[str, Stat]:
    """The discriminator's updates of one step: the teacher's response above each of the student's.

    The figures of a pair are those before the optimizer step that learns from it.
    """
    stats: list[dict[str, Stat]] = [{"critic/lr": Mean(critic.lr)}]
    for mini_batch in mini_batches(batch, config, step, config.critic):
        if _num_pairs(mini_batch) == 0:
            continue
        for loss, figures in _losses(mini_batch, critic, config):
            loss.backward()
            stats.append(figures)
        stats.append(critic.step())
    critic.advance()
    return merge_stats(stats)


@torch.no_grad()
def pair_figures(groups: Sequence[Group], critic: Critic, config: Config) -> dict[str, Stat]:
    """The figures of `update_discriminator` on groups that nothing is learned from: held-out ones, or all of them where
    the discriminator is frozen."""
    batch = GroupBatch.from_groups(groups, critic.scorer.device, scored=False)
    return merge_stats(figures for _, figures in _losses(batch, critic, config))


@torch.no_grad()
def teacher_control(groups: Sequence[Group], critic: Critic, config: Config, prefix: str) -> dict[str, Stat]:
    """The discriminator on pairs of different teacher's responses to the same prompt; nothing without such pairs.

    `teacher_teacher_acc`: how often the earlier row's response scores above the later row's, ties 1/2. Rows that were
    written alike are interchangeable, so it is near 1/2 whatever the discriminator has learned.
    `teacher_teacher_gap`: mean distance of the two scores, to hold `margin` against: what the discriminator makes of
    differences that do not matter.

    Args:
        groups: with their teachers; a prompt of several rows has a group for each.
        critic: the discriminator.
        config: the configuration.
        prefix: of the names.
    """
    several = teachers_by_prompt(groups)
    if not several:
        return {}
    batch = GroupBatch.from_groups(several, critic.scorer.device, scored=False)
    parts = micro_batches(batch, config.critic.ppo_max_token_len_per_gpu, config.critic.ppo_micro_batch_size_per_gpu)
    scores = torch.cat([critic.scorer.scores(part) for part in parts])
    own = scores.split([len(group.responses) for group in several])
    earlier, later = torch.cat([torch.combinations(score) for score in own]).double().unbind(1)
    above = (earlier > later).double() + 0.5 * (earlier == later)
    count = float(len(above))
    return {
        f"{prefix}/teacher_teacher_acc": Mean(above.sum(), count),
        f"{prefix}/teacher_teacher_gap": Mean((earlier - later).abs().sum(), count),
    }


def _num_pairs(batch: GroupBatch) -> int:
    """Pairs of a student's and a teacher's response in which neither is empty."""
    return sum(bool(response.token_ids and _taught(group)) for group in batch.groups for response in group.responses)


def _taught(group: Group) -> bool:
    return group.teacher is not None and bool(group.teacher.token_ids)


def _losses(batch: GroupBatch, critic: Critic, config: Config) -> Iterator[tuple[torch.Tensor, dict[str, Stat]]]:
    """Each micro-batch's share of the loss of the whole batch, and its figures."""
    settings = config.critic.discriminator
    parts = micro_batches(
        batch,
        config.critic.ppo_max_token_len_per_gpu,
        config.critic.ppo_micro_batch_size_per_gpu,
        with_teacher=True,
    )
    num_pairs = _num_pairs(batch)
    for part in parts:
        student, teacher = critic.scorer.compare(part)
        index = torch.as_tensor(part.group_index, device=student.device)
        written = [bool(response.token_ids) for group in part.groups for response in group.responses]
        taught = torch.tensor([_taught(group) for group in part.groups], device=student.device)
        yield compute_discriminator_loss(
            student[:, None],
            teacher[index, None],
            torch.tensor(written, device=student.device)[:, None],
            taught[index, None],
            temperature=settings.temperature,
            margin=settings.margin,
            score_l2=settings.score_l2,
            label_smoothing=settings.label_smoothing,
            global_batch_size=num_pairs,
        )
