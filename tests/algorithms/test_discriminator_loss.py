import math
from itertools import pairwise

import pytest
import torch

from gspo.algorithms import compute_discriminator_loss, last_token_value, merge_stats, to_floats

HOLE = math.nan
MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 1], [0, 0, 0], [1, 0, 0]])
TEACHER_MASK = torch.tensor([[1, 1], [1, 0], [1, 0], [1, 1], [0, 0]])
STUDENT = [0.5, -1.0, 2.0]  # values at the last written tokens of the three pairs that count
TEACHER = [1.5, -0.5, -1.0]


def inputs():
    student = torch.tensor(
        [[9.0, 9.0, 0.5], [9.0, -1.0, HOLE], [9.0, HOLE, 2.0], [HOLE, HOLE, HOLE], [3.0, HOLE, HOLE]],
        dtype=torch.float64,
    )
    teacher = torch.tensor([[9.0, 1.5], [-0.5, HOLE], [-1.0, HOLE], [4.0, 4.0], [HOLE, HOLE]], dtype=torch.float64)
    return student.requires_grad_(), teacher.requires_grad_(), MASK, TEACHER_MASK


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize(
    ("temperature", "margin", "score_l2", "label_smoothing"),
    [(1.0, 0.0, 0.0, 0.0), (2.0, 0.0, 0.0, 0.0), (1.0, 0.5, 0.0, 0.0), (1.0, 0.0, 0.1, 0.0), (0.5, 0.2, 0.3, 0.1)],
)
def test_loss_and_gradient_are_the_formula(temperature, margin, score_l2, label_smoothing):
    student, teacher, *masks = inputs()
    loss, _ = compute_discriminator_loss(
        student, teacher, *masks, temperature, margin, score_l2, label_smoothing=label_smoothing
    )
    total, slopes = 0.0, []
    for s, t in zip(STUDENT, TEACHER, strict=True):
        x = (t - s - margin) / temperature
        total -= (1 - label_smoothing) * log_sigmoid(x) + label_smoothing * log_sigmoid(-x)
        total += score_l2 * (t * t + s * s) / 2
        by_x = 1 / (1 + math.exp(-x)) - (1 - label_smoothing)
        slopes.append((-by_x / temperature + score_l2 * s, by_x / temperature + score_l2 * t))
    assert loss.item() == pytest.approx(total / 3)
    by_student, by_teacher = torch.autograd.grad(loss, (student, teacher))
    expected_student, expected_teacher = torch.zeros_like(student), torch.zeros_like(teacher)
    for pair, (column, teacher_column) in enumerate([(2, 1), (1, 0), (2, 0)]):
        expected_student[pair, column] = slopes[pair][0] / 3
        expected_teacher[pair, teacher_column] = slopes[pair][1] / 3
    torch.testing.assert_close(by_student, expected_student)
    torch.testing.assert_close(by_teacher, expected_teacher)


def test_values_zeroed_but_for_the_last_token_are_the_same_as_all_values():
    student, teacher, *masks = inputs()
    only_last = torch.zeros_like(student)
    for pair, column in enumerate((2, 1, 2)):
        only_last[pair, column] = student[pair, column]
    loss, _ = compute_discriminator_loss(student, teacher, *masks)
    assert torch.equal(compute_discriminator_loss(only_last, teacher, *masks)[0], loss)


def test_metrics_are_means_over_pairs():
    _, metrics = compute_discriminator_loss(*inputs())
    losses = [-log_sigmoid(t - s) for s, t in zip(STUDENT, TEACHER, strict=True)]
    expected = {
        "critic/d_loss": sum(losses) / 3,
        "critic/d_acc": 2 / 3,
        "critic/student_value_mean": 1.5 / 3,
        "critic/teacher_value_mean": 0.0,
        "critic/margin": -0.5,
    }
    assert to_floats(metrics) == pytest.approx(expected)


@pytest.mark.parametrize("cuts", [(0, 5), (0, 2, 5), (0, 0, 1, 3, 5)])
@pytest.mark.parametrize("dp_size", [1, 2])
def test_any_split_has_the_loss_gradient_and_metrics_of_the_whole(cuts, dp_size):
    student, teacher, mask, teacher_mask = inputs()
    whole, metrics = compute_discriminator_loss(student, teacher, mask, teacher_mask)
    results = [
        compute_discriminator_loss(
            student[a:b], teacher[a:b], mask[a:b], teacher_mask[a:b], global_batch_size=3, dp_size=dp_size
        )
        for a, b in pairwise(cuts)
    ]
    total = sum(loss for loss, _ in results)
    torch.testing.assert_close(total, dp_size * whole)
    ours, theirs = torch.autograd.grad(total, (student, teacher)), torch.autograd.grad(whole, (student, teacher))
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left, dp_size * right)
    assert to_floats(merge_stats(part for _, part in results)) == pytest.approx(to_floats(metrics))


def test_large_scores_do_not_overflow():
    student, teacher, ones = torch.tensor([[1e4]]), torch.tensor([[-1e4]]), torch.ones(1, 1)
    assert compute_discriminator_loss(student, teacher, ones, ones)[0].item() == 2e4


def test_last_token_value():
    assert last_token_value(inputs()[0], MASK).tolist() == [0.5, -1.0, 2.0, 0.0, 3.0]


def test_errors_say_what_to_do():
    student, teacher, mask, teacher_mask = inputs()
    with pytest.raises(ValueError, match=r"^5 student rows and 2 teacher rows; repeat the teacher's row"):
        compute_discriminator_loss(student, teacher[:2], mask, teacher_mask[:2])
    with pytest.raises(ValueError, match=r"^teacher_vpreds has shape \(5, 2\), but its mask \(5, 3\)$"):
        compute_discriminator_loss(student, teacher, mask, mask)
    with pytest.raises(ValueError, match=r"^temperature must be positive, .* got 0, 0\.0 and 0\.0$"):
        compute_discriminator_loss(student, teacher, mask, teacher_mask, temperature=0)
    with pytest.raises(ValueError, match=r"label_smoothing in \[0, 0\.5\), got 1\.0, 0\.0 and 0\.5$"):
        compute_discriminator_loss(student, teacher, mask, teacher_mask, label_smoothing=0.5)
    with pytest.raises(ValueError, match=r"^global_batch_size is required when dp_size > 1, got dp_size=2$"):
        compute_discriminator_loss(student, teacher, mask, teacher_mask, dp_size=2)
