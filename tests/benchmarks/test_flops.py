"""Useful operations: against torch's own count of a model's forward and backward pass, and by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def test_a_forward_pass_is_what_torch_counts(tiny: Any) -> None:
    from flops import Shape
    from workloads import make_model

    model = make_model(tiny)
    model.config._attn_implementation = "eager"
    length, kept = 11, 4
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.arange(4, 4 + length)[None], use_cache=False, logits_to_keep=kept)
    counted = {str(name): count for name, count in counter.get_flop_counts()["Global"].items()}
    shape = Shape.of(tiny)
    assert counted["aten.mm"] == shape.forward(length, 0, kept)
    # a plain model multiplies every token with every other one, before and behind it
    assert counted["aten.bmm"] == shape.forward(0, length * length, 0)


def test_a_step_by_hand(tiny: Any) -> None:
    from dataclasses import replace

    from flops import GroupShape, Shape, phase_flops, useful_flops

    groups = [GroupShape(5, (3, 1), 4), GroupShape(2, (0,), 1)]
    workload = replace(tiny, discriminator=True)
    shape = Shape.of(workload)
    # without last tokens: 5 + 2 + 0, and 2; each sees its prompt and what of its own is before it
    policy = shape.forward(5 + 2 + 2, (1 + 2 + 3 + 4 + 5) + (6 + 7) + (1 + 2), predicted=1 + 2 + 0 + 1)
    scored = shape.forward(5 + 3 + 1 + 2, 15 + (6 + 7 + 8) + 6 + 3, 0)
    judged = shape.forward(5 + 3 + 1 + 4 + 2 + 1, 15 + (6 + 7 + 8) + 6 + (6 + 7 + 8 + 9) + 3 + 3, 0)
    assert phase_flops(workload, groups) == {
        "gen": policy,
        "old_log_prob": policy,
        "update_actor": 3 * policy,
        "reward": scored,
        "update_critic": 3 * judged,
    }
    assert useful_flops(workload, groups) == 4 * policy + scored + 3 * judged
    assert useful_flops(tiny, groups) == 4 * policy
