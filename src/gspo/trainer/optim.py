"""The optimizer of one model and its learning-rate schedule."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from gspo.config.schema import OptimConfig

__all__ = ["clip_and_step", "make_optimizer", "make_schedule"]


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW over the trainable parameters; vectors (norms and biases) have no weight decay."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    first, second = config.betas
    return AdamW(
        [group for group in groups if group["params"]], lr=config.lr, betas=(first, second), eps=config.eps, fused=True
    )


def make_schedule(optimizer: AdamW, config: OptimConfig, total_steps: int) -> LambdaLR:
    """Linear warmup, then constant, cosine or linear down to `min_lr_ratio`, counted in training steps."""
    if config.total_training_steps > 0:
        total_steps = config.total_training_steps
    warmup = config.lr_warmup_steps if config.lr_warmup_steps >= 0 else int(config.lr_warmup_steps_ratio * total_steps)
    floor = config.min_lr_ratio
    after_warmup: dict[str, Callable[[float], float]] = {
        "constant": lambda _: 1.0,
        "cosine": lambda part: floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * part)),
        "linear": lambda part: floor + (1 - floor) * (1 - part),
    }
    shape = after_warmup[config.lr_scheduler_type]

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return shape(min(1.0, (step - warmup) / max(1, total_steps - warmup)))

    return LambdaLR(optimizer, factor)


def clip_and_step(model: nn.Module, optimizer: torch.optim.Optimizer, max_norm: float) -> float:
    """One optimizer step with the gradients clipped to `max_norm`, which are then cleared.

    Returns:
        the gradient norm before clipping. Where it is not finite no step is taken: the weights stay as they are.
    """
    norm = float(nn.utils.clip_grad_norm_(model.parameters(), max_norm))
    if math.isfinite(norm):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
