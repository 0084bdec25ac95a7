"""The discriminator's loss as a weighted sum of scores, against autograd through the scores themselves."""

from __future__ import annotations

import pytest
import torch

from gspo.integrations.verl.losses import discriminator_loss, last_token_scores
from gspo.integrations.verl.pairs import group_slices, pair_loss

INDEX = torch.tensor([0, 0, 1, 1, 1, 2])


@pytest.mark.parametrize(
    "settings",
    [{}, {"temperature": 2.0, "margin": 0.5, "score_l2": 0.1, "label_smoothing": 0.2}],
    ids=["plain", "with every key"],
)
def test_the_weighted_sum_has_the_gradient_of_the_loss_in_any_order(settings: dict[str, float]) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1)).double()
    students, teachers = torch.randn(6, 4).double(), torch.randn(3, 4).double()
    s, t = net(students)[:, 0], net(teachers)[:, 0]
    # The loss of a pair, written out: a float64 loop over the formula.
    temperature, margin = settings.get("temperature", 1.0), settings.get("margin", 0.0)
    smoothing, l2 = settings.get("label_smoothing", 0.0), settings.get("score_l2", 0.0)
    total = torch.zeros((), dtype=torch.float64)
    for place, group in enumerate(INDEX.tolist()):
        right = torch.sigmoid((t[group] - s[place] - margin) / temperature)
        total += -(1 - smoothing) * right.log() - smoothing * (1 - right).log()
        total += l2 * (t[group] ** 2 + s[place] ** 2) / 2
    expected = torch.autograd.grad(total / len(INDEX), list(net.parameters()), retain_graph=True)

    pairs = pair_loss(s, t, INDEX, **settings)

    assert pairs.loss == pytest.approx((total / len(INDEX)).item(), rel=1e-12)
    assert pairs.metrics["critic/d_loss"] == pytest.approx(pairs.loss)
    rows = [(x, w) for x, w in zip(students, pairs.student_weights, strict=True)]
    rows += [(x, w) for x, w in zip(teachers, pairs.teacher_weights, strict=True)]
    for place in torch.randperm(len(rows)).tolist():
        row, weight = rows[place]
        (weight.double() * net(row)[0]).backward()
    for gradient, parameter in zip(expected, net.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-6, atol=1e-8)  # the weights are float32


def test_figures_are_those_of_the_scores() -> None:
    pairs = pair_loss(torch.tensor([0.0, 2.0]), torch.tensor([1.0]), torch.tensor([0, 0]))
    assert pairs.metrics["critic/d_acc"] == 0.5
    assert pairs.metrics["critic/student_value_mean"] == 1.0
    assert pairs.metrics["critic/teacher_value_mean"] == 1.0
    # w of a student is sigmoid(s - t) over the pairs; the teacher's is minus their sum.
    expected = torch.sigmoid(torch.tensor([-1.0, 1.0])) / 2
    torch.testing.assert_close(pairs.student_weights, expected)
    torch.testing.assert_close(pairs.teacher_weights, -expected.sum()[None])


def test_steps_hold_whole_groups_wherever_their_responses_are() -> None:
    # Balancing over ranks has scattered the groups.
    assert group_slices([1, 0, 2, 1, 0], 2) == [([0, 1, 3, 4], [0, 1]), ([2], [2])]
    assert group_slices([], 2) == []


def jagged(*rows: list[float]) -> torch.Tensor:
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def test_the_score_is_the_value_at_the_last_token() -> None:
    assert last_token_scores(jagged([1.0, 2.0], [3.0], [4.0, 5.0, 6.0])).tolist() == [2.0, 3.0, 6.0]


def test_rows_that_fill_up_a_batch_reach_neither_loss_nor_gradient() -> None:
    values = jagged([1.0, 2.0], [float("nan")]).requires_grad_()
    data = {"score_weight": torch.tensor([0.5, 0.0]), "dp_size": 4}
    loss, _ = discriminator_loss({"values": values}, data)
    assert loss.item() == 4 * 0.5 * 2.0
    loss.backward()
    assert values.grad.values().tolist() == [0.0, 2.0, 0.0]
