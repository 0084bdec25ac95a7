"""The loss scale of products in float16: its arithmetic, and a run with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from gspo.checkpoint import load_checkpoint
from gspo.config import load_config
from gspo.config.schema import OptimConfig
from gspo.trainer import train
from gspo.trainer.loss_scale import LossScale
from gspo.trainer.trained import Trained

_HALF = (
    "actor_rollout_ref.model.mixed_precision=true",
    "actor_rollout_ref.model.mixed_precision_dtype=float16",
    "trainer.save_freq=1",
)


def make_trained(products: torch.dtype | None) -> Trained:
    torch.manual_seed(0)
    module = nn.Linear(4, 3)
    return Trained(module, OptimConfig(lr=0.1), 10, name="actor", model_key="key", products=products)


def test_scaled_gradients_take_the_step_of_plain_ones() -> None:
    scaled, plain = make_trained(torch.float16), make_trained(None)
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(3):
        for trained in (scaled, plain):
            trained.backward(trained.module(inputs).square().mean())
        figures = [trained.step() for trained in (scaled, plain)]
        assert float(figures[0]["actor/grad_norm"]) == float(figures[1]["actor/grad_norm"])
        for ours, theirs in zip(scaled.module.parameters(), plain.module.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    assert float(figures[0]["actor/loss_scale"]) == 2**16
    assert "actor/loss_scale" not in figures[1]


def test_an_infinite_gradient_is_left_out_and_halves_the_scale() -> None:
    trained = make_trained(torch.float16)
    before = [parameter.clone() for parameter in trained.module.parameters()]
    trained.backward(trained.module(torch.full((1, 4), 1e38)).sum() * 1e3)
    assert float(trained.step()["actor/skipped_steps"]) == 1.0
    assert trained.loss_scale is not None
    assert trained.loss_scale.value == 2**15
    for now, then in zip(trained.module.parameters(), before, strict=True):
        assert torch.equal(now, then)


def test_the_scale_grows_after_many_finite_steps_and_has_an_end() -> None:
    scale = LossScale()
    for _ in range(1999):
        scale.update(skipped=False)
    twin = LossScale()
    twin.load_state_dict(json.loads(json.dumps(scale.state_dict())))
    twin.update(skipped=False)
    assert twin.value == 2**17
    for _ in range(31):
        twin.update(skipped=True)
    assert twin.value == 2**-14
    with pytest.raises(ValueError, match="mixed_precision_dtype=bfloat16"):
        twin.update(skipped=True)


def test_a_run_in_float16_learns_and_resumes_exactly(run_overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    def run(folder: Path, steps: int) -> None:
        settings = [*_HALF, f"trainer.default_local_dir={folder}", f"trainer.total_training_steps={steps}"]
        train(load_config(None, None, run_overrides(*settings)))

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, 3)
    run(cut, 2)
    run(cut, 3)
    ours, expected = (load_checkpoint(folder / "checkpoints" / "global_step_3") for folder in (cut, whole))
    assert ours.state["actor"]["loss_scale"] == expected.state["actor"]["loss_scale"]
    for entry, tensors in expected.tensors.items():
        assert all(torch.equal(ours.tensors[entry][name], tensor) for name, tensor in tensors.items()), entry
    for folder in (whole, cut):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        steps = [line for line in lines if "actor/loss_scale" in line]
        assert [line["actor/skipped_steps"] for line in steps] == [0.0] * 3
        assert "actor/ratio_noise" in steps[0]
        assert "actor/ratio_noise" not in steps[1]
