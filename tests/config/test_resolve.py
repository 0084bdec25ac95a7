"""What is left open is filled with what is used."""

from __future__ import annotations

import pytest
import torch

from gspo.algorithms import get_policy_loss_fn
from gspo.config import load_config
from gspo.config.resolve import resolve
from gspo.methods import LOSSES

ACTOR = "actor_rollout_ref.actor"
UNCLIPPED = next(name for name, loss in LOSSES.items() if loss.clip is None)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["gspo"], (3e-4, 3e-4, 4e-4)),
        (["gspo_token"], (3e-4, 3e-4, 4e-4)),
        (["vanilla"], (0.2, 0.2, 0.2)),
        (["geo_mean"], (0.4, 0.4, 0.4)),
        ([UNCLIPPED], (None, None, None)),
        (["gspo", "clip_ratio=1e-3"], (1e-3, 1e-3, 1e-3)),
        (["gspo", "clip_ratio_high=1e-3"], (3e-4, 3e-4, 1e-3)),
        (["vanilla", "clip_ratio=0.1", "clip_ratio_high=0.28"], (0.1, 0.1, 0.28)),
    ],
)
def test_the_clip_range(overrides: list[str], expected: tuple[float | None, ...]) -> None:
    settings = [f"{ACTOR}.policy_loss={overrides[0]}", *(f"{ACTOR}.{setting}" for setting in overrides[1:])]
    actor = load_config(overrides=settings).actor_rollout_ref.actor
    assert (actor.clip_ratio, actor.clip_ratio_low, actor.clip_ratio_high) == expected


@pytest.mark.parametrize("loss_mode", [name for name, loss in LOSSES.items() if loss.clip is not None])
def test_the_filled_numbers_are_the_ones_that_the_loss_takes_by_itself(loss_mode: str) -> None:
    generator = torch.Generator().manual_seed(0)
    old, new, advantages = (torch.randn(4, 6, generator=generator) for _ in range(3))
    mask = torch.ones(4, 6)
    actor = load_config(overrides=[f"{ACTOR}.policy_loss={loss_mode}"]).actor_rollout_ref.actor
    loss = get_policy_loss_fn(loss_mode)
    mode = actor.loss_agg_mode
    filled, _ = loss(old, new, advantages, mask, loss_agg_mode=mode, config=actor)
    by_itself, _ = loss(old, new, advantages, mask, loss_agg_mode=mode)
    assert torch.equal(filled, by_itself)


@pytest.mark.parametrize(
    ("loss_mode", "mode"),
    [
        ("gspo", "seq-mean-token-mean"),
        ("gspo_token", "seq-mean-token-mean"),
        ("vanilla", "token-mean"),
        ("cispo", "token-mean"),
        ("geo_mean", "seq-mean-token-mean"),
    ],
)
def test_the_aggregation(loss_mode: str, mode: str) -> None:
    assert load_config(overrides=[f"{ACTOR}.policy_loss={loss_mode}"]).actor_rollout_ref.actor.loss_agg_mode == mode


@pytest.mark.parametrize(("batch", "mini_batch"), [(1024, 256), (256, 256), (32, 32)])
def test_the_mini_batch_is_verls_or_the_whole_batch(batch: int, mini_batch: int) -> None:
    config = load_config(overrides=[f"data.train_batch_size={batch}"])
    assert config.actor_rollout_ref.actor.ppo_mini_batch_size == mini_batch
    assert config.critic.ppo_mini_batch_size == mini_batch


def test_splitting_by_tokens_unless_responses_are_given() -> None:
    assert load_config().actor_rollout_ref.actor.use_dynamic_bsz is True
    assert (
        load_config(overrides=[f"{ACTOR}.ppo_micro_batch_size_per_gpu=8"]).actor_rollout_ref.actor.use_dynamic_bsz
        is False
    )


def test_names_and_seeds() -> None:
    config = load_config(
        overrides=[f"{ACTOR}.policy_loss=gspo", "actor_rollout_ref.model.path=a/Qwen3-0.6B/", "trainer.seed=7"]
    )
    assert config.trainer.experiment_name == "gspo-Qwen3-0.6B"
    assert config.trainer.default_local_dir == "runs/gspo/gspo-Qwen3-0.6B"
    assert config.data.seed == 7
    assert load_config(overrides=["trainer.seed=7", "data.seed=0"]).data.seed == 0


@pytest.mark.parametrize("preset", ["ppo_config", "gad_gspo_config", "gspo_gsm8k"])
def test_resolving_twice_is_resolving_once(preset: str) -> None:
    config = load_config(None, preset)
    assert resolve(config) == config


@pytest.mark.parametrize("section", ["actor_rollout_ref.actor", "critic"])
def test_dr_grpos_divisor_is_that_of_the_run(section: str) -> None:
    """verl and TRL divide by the longest response that is allowed, not by the longest of the step."""
    mode = f"{section}.loss_agg_mode=seq-mean-token-sum-norm"
    base = ["algorithm.adv_estimator=gae", "data.max_response_length=77"]

    def scale(*overrides: str) -> float | None:
        config = load_config(overrides=[*base, *overrides])
        return config.critic.loss_scale_factor if section == "critic" else config.actor.loss_scale_factor

    assert scale(mode) == 77.0
    assert scale(mode, f"{section}.loss_scale_factor=5") == 5.0
    assert scale() is None
