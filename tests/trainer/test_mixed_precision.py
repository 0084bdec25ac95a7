"""Whole runs with products in bfloat16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from gspo.checkpoint import Checkpoint, load_checkpoint
from gspo.config import load_config
from gspo.trainer import train

_MIXED = "actor_rollout_ref.model.mixed_precision=true"


def end_of(folder: Path, step: int) -> Checkpoint:
    return load_checkpoint(folder / "checkpoints" / f"global_step_{step}")


def test_a_run_trains_and_resumes_exactly_with_everything_in_float32(
    run_overrides: Callable[..., list[str]], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"

    def run(folder: Path, steps: int, *further: str) -> None:
        settings = [_MIXED, "trainer.save_freq=1", f"trainer.default_local_dir={folder}", *further]
        train(load_config(None, None, run_overrides(*settings, f"trainer.total_training_steps={steps}")))

    run(whole, 3)
    run(cut, 2)
    run(cut, 3)
    ours, expected = end_of(cut, 3).tensors, end_of(whole, 3).tensors
    assert ours.keys() == expected.keys()
    for entry, tensors in expected.items():
        if entry.startswith("actor"):
            assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
        assert all(torch.equal(ours[entry][name], tensor) for name, tensor in tensors.items()), entry
    first = end_of(whole, 1).tensors["actor"]
    assert any(not torch.equal(first[name], tensor) for name, tensor in expected["actor"].items())

    plain = tmp_path / "plain"
    run(plain, 3, "actor_rollout_ref.model.mixed_precision=false")
    metrics = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (whole, plain)]
    assert metrics[0]["actor/entropy"] != metrics[1]["actor/entropy"]
    assert abs(metrics[0]["actor/entropy"] - metrics[1]["actor/entropy"]) < 0.1


def test_sampling_computes_as_training_does(run_overrides: Callable[..., list[str]], tmp_path: Path) -> None:
    """Within bfloat16's rounding; further than float32's, so the old log-probabilities are a pass of their own."""
    config = load_config(None, None, run_overrides(_MIXED, "trainer.total_training_steps=1"))
    train(config)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (metrics,) = [found for found in map(json.loads, lines) if "training/rollout_probs_diff_max" in found]
    assert 0 < metrics["training/rollout_probs_diff_max"] < 0.01
