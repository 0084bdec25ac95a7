"""Clipping, decay and learning-rate schedules against their closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from gspo.config.schema import ActorOptimConfig
from gspo.trainer.trained import Trained, clip_and_step, make_optimizer

_TOTAL = 10


def module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))


def rates(**settings: Any) -> list[float]:
    """The learning rate of each of the run's steps."""
    config = ActorOptimConfig(lr=0.5, **settings)
    trained = Trained(module(), config, _TOTAL, name="actor", model_key="model")
    seen = []
    for _ in range(_TOTAL):
        seen.append(trained.lr)
        trained.advance()
    return seen


def test_constant() -> None:
    assert rates() == [0.5] * _TOTAL


@pytest.mark.parametrize("settings", [{"lr_warmup_steps": 4}, {"lr_warmup_steps_ratio": 0.45}])
def test_linear_warmup(settings: dict[str, Any]) -> None:
    assert rates(**settings) == pytest.approx([0.5 * min(1.0, (step + 1) / 4) for step in range(_TOTAL)])


def test_warmup_steps_come_before_their_ratio() -> None:
    assert rates(lr_warmup_steps=0, lr_warmup_steps_ratio=0.5) == [0.5] * _TOTAL


def test_cosine_after_a_warmup() -> None:
    expected = [0.25, 0.5]
    for step in range(2, _TOTAL):
        part = (step - 2) / (_TOTAL - 2)
        expected.append(0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * part)) / 2))
    assert rates(lr_scheduler_type="cosine", lr_warmup_steps=2, min_lr_ratio=0.1) == pytest.approx(expected)


def test_linear_decay_over_its_own_number_of_steps() -> None:
    settings = {"lr_scheduler_type": "linear", "min_lr_ratio": 0.2, "total_training_steps": 5}
    expected = [0.5 * (0.2 + 0.8 * (1 - min(step, 5) / 5)) for step in range(_TOTAL)]
    assert rates(**settings) == pytest.approx(expected)
    assert rates(**settings)[5:] == pytest.approx([0.1] * 5)


def test_gradients_are_clipped_to_the_norm_before_the_step() -> None:
    model = module()
    optimizer = make_optimizer(model, ActorOptimConfig(lr=0.1, weight_decay=0.0))
    gradients = {name: torch.randn_like(p) for name, p in model.named_parameters()}
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients.values()))
    assert norm > 0.5
    for name, p in model.named_parameters():
        p.grad = gradients[name].clone()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    assert clip_and_step(model, optimizer, 0.5) == pytest.approx(norm, rel=1e-5)
    for name, p in model.named_parameters():
        clipped = gradients[name] * 0.5 / norm
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], 0.1 * clipped, rtol=1e-4, atol=1e-7)
        # AdamW's first step, arXiv 1711.05101: both moments without bias are the gradient and its square
        torch.testing.assert_close(p.detach(), before[name] - 0.1 * clipped / (clipped.abs() + 1e-8))
        assert p.grad is None


def test_a_smaller_gradient_stays_as_it_is() -> None:
    model = module()
    optimizer = make_optimizer(model, ActorOptimConfig())
    for p in model.parameters():
        p.grad = torch.full_like(p, 0.01)
    clip_and_step(model, optimizer, 1.0)
    for p in model.parameters():
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], torch.full_like(p, 0.001))


def test_only_matrices_decay() -> None:
    model = module()
    optimizer = make_optimizer(model, ActorOptimConfig(lr=0.1, weight_decay=0.5))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    clip_and_step(model, optimizer, 1.0)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name] * (1 - 0.1 * 0.5 if p.dim() == 2 else 1.0))


def test_frozen_parameters_are_left_out() -> None:
    model = module()
    model[0].requires_grad_(False)
    optimizer = make_optimizer(model, ActorOptimConfig())
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
