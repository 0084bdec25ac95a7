"""The reference that becomes the policy every few steps, and goes on exactly after a resume."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gspo.checkpoint import load_checkpoint
from gspo.config import load_config, notices
from gspo.trainer import TrainRun, train
from gspo.trainer.preparation import HeldReference

Overrides = Callable[..., list[str]]
SYNCED = ("actor_rollout_ref.actor.use_kl_loss=true", "actor_rollout_ref.ref.sync_steps=2", "trainer.save_freq=1")


def reference_of(run: TrainRun) -> HeldReference:
    assert isinstance(run.reference, HeldReference)
    return run.reference


def metrics_of(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("timing", "perf/"))} for line in lines]


def test_the_reference_follows_every_second_step(run_overrides: Overrides, tmp_path: Path) -> None:
    run = train(load_config(overrides=run_overrides(*SYNCED, "trainer.total_training_steps=3")))
    reference = reference_of(run)
    assert reference.step == 2
    steps = [load_checkpoint(tmp_path / "run" / "checkpoints" / f"global_step_{step}") for step in (1, 2, 3)]
    assert "reference" not in steps[0].tensors
    policy_at_2 = steps[1].tensors["actor"]
    for checkpoint in steps[1:]:
        for name, weight in checkpoint.tensors["reference"].items():
            assert torch.equal(weight, policy_at_2[name])
    for name, weight in reference.policy.model.state_dict().items():
        assert torch.equal(weight, policy_at_2[name])
    assert not any(weight.requires_grad for weight in reference.policy.model.parameters())
    moved = [(a - b).abs().max() for a, b in zip(steps[2].tensors["actor"].values(), policy_at_2.values(), strict=True)]
    assert max(moved) > 0


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_synced_reference_is_resumed_exactly(stop: int, run_overrides: Overrides, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, ends in ((whole, [4]), (parts, [stop, 4])):
        for end in ends:
            further = (f"trainer.total_training_steps={end}", f"trainer.default_local_dir={folder}")
            run = train(load_config(overrides=run_overrides(*SYNCED, *further)))
            assert reference_of(run).step == end - end % 2
    assert metrics_of(parts) == metrics_of(whole)


def test_a_sync_without_a_reference_is_said() -> None:
    settings = ["actor_rollout_ref.ref.sync_steps=5", "actor_rollout_ref.rollout.n=8"]
    assert notices(load_config(overrides=[*settings, "actor_rollout_ref.actor.policy_loss=gspo"])) == [
        "actor_rollout_ref.ref.sync_steps=5 has no effect without a reference model: set "
        "actor_rollout_ref.actor.use_kl_loss=true, or take it out"
    ]
