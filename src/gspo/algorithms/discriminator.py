"""The discriminator's Bradley-Terry loss: the teacher's response should score above the student's.

Generative adversarial distillation, arXiv 2511.10643.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from gspo.algorithms.aggregation import masked_sum
from gspo.algorithms.stats import Mean, Stat

__all__ = ["compute_discriminator_loss", "last_token_value"]


def last_token_value(values: Tensor, mask: Tensor) -> Tensor:
    """The value at each row's last masked-in token, 0 for a row without one. (rows, tokens) -> (rows,)"""
    positions = torch.arange(mask.shape[-1], device=mask.device)
    last = torch.where(mask.bool(), positions, -1).amax(dim=-1, keepdim=True)  # -1: no token
    return torch.where(positions == last, values, 0.0).sum(dim=-1)


def compute_discriminator_loss(
    student_vpreds: Tensor,
    teacher_vpreds: Tensor,
    response_mask: Tensor,
    teacher_response_mask: Tensor,
    temperature: float = 1.0,
    margin: float = 0.0,
    score_l2: float = 0.0,
    label_smoothing: float = 0.0,
    global_batch_size: Tensor | float | None = None,
    dp_size: int = 1,
) -> tuple[Tensor, dict[str, Stat]]:
    """Mean over student responses of -log sigmoid((t - s - margin) / temperature).

    t and s are the discriminator's values at the last token of the teacher's and the student's response. There is one
    teacher row for each student row, as in the released code; where a group shares a teacher response, score it once
    and repeat the values: `teacher_vpreds[group_index]`. Widths may differ. A pair in which either response is empty
    counts nowhere. With the defaults it is the released loss.

    Args:
        student_vpreds: values at every token of the student's responses, with gradient. (rows, student tokens)
        teacher_vpreds: the same of the teacher's. (rows, teacher tokens)
        response_mask: tokens of the student's responses. (rows, student tokens)
        teacher_response_mask: tokens of the teacher's responses. (rows, teacher tokens)
        temperature: above 1 it slows a discriminator that saturates.
        margin: how far apart the scores are asked to be.
        score_l2: coefficient of (t^2 + s^2) / 2, which keeps the scores from drifting.
        label_smoothing: probability with which a pair is taken to be the other way round, in [0, 0.5).
        global_batch_size: pairs in the whole optimizer batch, when these rows are a micro-batch; their own if None.
        dp_size: see `agg_loss`.

    Returns:
        The scalar loss and means over pairs: critic/d_loss, critic/d_acc (t > s), critic/student_value_mean,
        critic/teacher_value_mean, critic/margin (t - s).

    Raises:
        ValueError: shapes that do not fit, or a setting out of range.
    """
    _check(student_vpreds, teacher_vpreds, response_mask, teacher_response_mask)
    if temperature <= 0 or score_l2 < 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(
            "temperature must be positive, score_l2 not negative and label_smoothing in [0, 0.5), got "
            f"{temperature}, {score_l2} and {label_smoothing}"
        )
    if global_batch_size is None and dp_size > 1:
        raise ValueError(f"global_batch_size is required when dp_size > 1, got dp_size={dp_size}")
    pairs = response_mask.bool().any(dim=-1) & teacher_response_mask.bool().any(dim=-1)
    student = last_token_value(student_vpreds, response_mask)
    teacher = last_token_value(teacher_vpreds, teacher_response_mask)
    logit = (teacher - student - margin) / temperature
    losses = -(1 - label_smoothing) * logsigmoid(logit) - label_smoothing * logsigmoid(-logit)
    losses = losses + score_l2 * (teacher.square() + student.square()) / 2
    count = pairs.sum() if global_batch_size is None else torch.as_tensor(global_batch_size, device=losses.device)
    loss = masked_sum(losses, pairs) / count.clamp(min=1) * dp_size
    with torch.no_grad():
        metrics: dict[str, Stat] = {
            "critic/d_loss": Mean.masked(losses, pairs),
            "critic/d_acc": Mean.masked((teacher > student).float(), pairs),
            "critic/student_value_mean": Mean.masked(student, pairs),
            "critic/teacher_value_mean": Mean.masked(teacher, pairs),
            "critic/margin": Mean.masked(teacher - student, pairs),
        }
    return loss, metrics


def _check(student: Tensor, teacher: Tensor, student_mask: Tensor, teacher_mask: Tensor) -> None:
    for name, values, mask in (("student", student, student_mask), ("teacher", teacher, teacher_mask)):
        if values.shape != mask.shape:
            raise ValueError(f"{name}_vpreds has shape {tuple(values.shape)}, but its mask {tuple(mask.shape)}")
    if len(student) != len(teacher):
        raise ValueError(
            f"{len(student)} student rows and {len(teacher)} teacher rows; repeat the teacher's row for each student "
            "response of its group: teacher_vpreds[group_index]"
        )
