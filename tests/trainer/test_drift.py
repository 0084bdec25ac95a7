"""A run whose samples are of another model than is trained stops before it learns from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import names

from gspo.config import load_config
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.rollout import LocalEngine
from gspo.trainer import train
from gspo.trainer.drift import SampleCheck
from gspo.world import Alone

Overrides = Callable[..., list[str]]


def batch_of(*log_probs: list[float]) -> GroupBatch:
    responses = [Response([5] * len(given), given, "", "stop", outcome=Outcome(0.0)) for given in log_probs]
    return GroupBatch.from_groups([Group(Prompt("f:0", (1,), "", ""), responses)])


def test_the_mean_over_an_optimizer_batch_is_held() -> None:
    check = SampleCheck(exact=True, world=Alone())
    first, second = batch_of([-1.0, -2.0], [-1.0]), batch_of([-3.0] * 97)
    check.add(first, torch.tensor([[-1.0, -2.0], [-1.9, 0.0]]))  # one token of 100 is off by 0.9
    check.add(second, second["rollout_log_probs"])
    check.require_same(1)
    check.add(first, torch.tensor([[-1.0, -2.0], [-1.9, 0.0]]))  # one of 3
    with pytest.raises(ValueError, match="samples' log-probabilities differ") as error:
        check.require_same(7)
    assert names(error, "step 7", "0.3 nats", "training/rollout_probs_diff_mean", "use_fused_kernels=false")
    check.require_same(8)  # each batch counts for itself


class OffByALittle(LocalEngine):
    """Claims other probabilities than those that it samples with."""

    def generate(self, prompts: Sequence[Prompt], *given: Any, **settings: Any) -> list[Group]:
        groups = super().generate(prompts, *given, **settings)
        for group in groups:
            group.responses = [replace(r, log_probs=[p - 0.1 for p in r.log_probs]) for r in group.responses]
        return groups


def test_a_run_stops_before_its_first_update(
    run_overrides: Overrides, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("gspo.rollout.local.LocalEngine", OffByALittle)
    with pytest.raises(ValueError, match="samples' log-probabilities differ") as error:
        train(load_config(overrides=run_overrides()))
    assert names(error, "step 1", "0.1 nats", "training/rollout_probs_diff_mean", "actor_rollout_ref.rollout.name")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_sixteen_bits_are_not_held_to_it(run_overrides: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo.rollout.local.LocalEngine", OffByALittle)
    train(load_config(overrides=run_overrides("actor_rollout_ref.model.dtype=bfloat16")))
