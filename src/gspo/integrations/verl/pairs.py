"""The discriminator's loss of a batch as a weighted sum of scores, which verl's critic worker can train on.

The Bradley-Terry loss joins two sequences, and verl's worker sees one sequence at a time, in micro-batches of its own
choice. But the gradient of any loss L of scores D(x) is sum_x (dL/dD(x)) grad D(x). With w = dL/dD, computed from
the scores before the update, sum_x w(x) D(x) has L's gradient exactly, for one optimizer step and in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gspo.algorithms import compute_discriminator_loss
from gspo.algorithms.stats import to_floats

__all__ = ["PairLoss", "group_slices", "pair_loss"]


@dataclass(frozen=True)
class PairLoss:
    """The loss of the pairs of one optimizer step.

    Attributes:
        loss: its value.
        student_weights: dL/dD of each student's response. (responses,)
        teacher_weights: dL/dD of each teacher's response. (prompts,)
        metrics: critic/d_loss, critic/d_acc, critic/student_value_mean, critic/teacher_value_mean, critic/margin.
    """

    loss: float
    student_weights: Tensor
    teacher_weights: Tensor
    metrics: dict[str, float]


def pair_loss(student_scores: Tensor, teacher_scores: Tensor, group_index: Tensor, **settings: Any) -> PairLoss:
    """`gspo.algorithms.compute_discriminator_loss` of scores, with its derivatives by the scores.

    Args:
        student_scores: one for each response of the student. (responses,)
        teacher_scores: one for each prompt. (prompts,)
        group_index: which prompt a response belongs to. (responses,)
        settings: temperature, margin, score_l2 and label_smoothing of `compute_discriminator_loss`.
    """
    students = student_scores.detach().double().requires_grad_()
    teachers = teacher_scores.detach().double().requires_grad_()
    every = torch.ones(len(students), 1, dtype=torch.bool)
    loss, stats = compute_discriminator_loss(
        students[:, None], teachers[group_index][:, None], every, every, **settings
    )
    by_student, by_teacher = torch.autograd.grad(loss, (students, teachers))
    return PairLoss(loss.item(), by_student.float(), by_teacher.float(), to_floats(stats))


def group_slices(group_index: Sequence[int], prompts_per_step: int) -> list[tuple[list[int], list[int]]]:
    """Whole groups for each optimizer step, in order: (positions of responses, numbers of their prompts).

    Args:
        group_index: which prompt each response belongs to, counted from 0.
        prompts_per_step: prompts of one optimizer step; the last step may have fewer.
    """
    num_prompts = max(group_index, default=-1) + 1
    steps = []
    for start in range(0, num_prompts, prompts_per_step):
        prompts = range(start, min(start + prompts_per_step, num_prompts))
        steps.append(([place for place, prompt in enumerate(group_index) if prompt in prompts], list(prompts)))
    return steps
