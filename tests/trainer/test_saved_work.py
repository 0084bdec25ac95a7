"""Work that a step leaves out changes nothing: the old log-probabilities' pass, and groups without an advantage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models_helpers import tiny_model
from test_update import CapturingActor, configured, make_batch, update_actor
from torch import Tensor

from gspo.algorithms.registry import POLICY_LOSS_REGISTRY
from gspo.algorithms.stats import to_floats
from gspo.config import ConfigError, load_config, require_supported
from gspo.groups import GroupBatch
from gspo.methods import LOSSES, PolicyLoss
from gspo.models import Policy
from gspo.trainer import old_log_probs, train

Overrides = Callable[..., list[str]]
SKIPS = "actor_rollout_ref.actor.skip_zero_advantages=true"
STEPS = ("trainer.total_training_steps=3", "trainer.val_before_train=false")


def logged(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the passes for old log-probabilities."""
    counted: list[int] = []
    original = old_log_probs.add_log_probs

    def count(batch: GroupBatch, *arguments: Any) -> Any:
        counted.append(len(batch))
        return original(batch, *arguments)

    monkeypatch.setattr(old_log_probs, "add_log_probs", count)
    return counted


@pytest.mark.parametrize(("setting", "count"), [("null", 1), ("true", 0), ("false", 3)])
def test_the_samples_own_log_probs_train_like_a_pass_over_every_batch(
    setting: str, count: int, run_overrides: Overrides, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = passes(monkeypatch)
    key = f"algorithm.rollout_correction.bypass_mode={setting}"
    run = train(load_config(overrides=run_overrides(*STEPS, key)))
    assert len(counted) == count
    monkeypatch.undo()
    twin = f"trainer.default_local_dir={tmp_path / 'twin'}"
    plain = train(load_config(overrides=run_overrides(*STEPS, "algorithm.rollout_correction.bypass_mode=false", twin)))
    for ours, theirs in zip(run.actor.module.parameters(), plain.actor.module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    both = logged(tmp_path / "run"), logged(tmp_path / "twin")
    for ours, theirs in zip(*both, strict=True):
        assert ours["critic/score/mean"] == theirs["critic/score/mean"]
        assert ours["actor/pg_loss"] == pytest.approx(theirs["actor/pg_loss"], abs=1e-6)
        assert 0 <= ours["training/rollout_probs_diff_max"] < 1e-5
        assert ours["actor/entropy"] == pytest.approx(theirs["actor/entropy"], abs=1e-5)


def test_samples_of_another_policy_do_not_serve_and_that_is_said(
    run_overrides: Overrides, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gspo.rollout.local import engine as local

    original = local.sample_tokens

    def off(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        tokens, log_probs, entropies = original(*arguments)
        return tokens, log_probs - 0.005, entropies

    monkeypatch.setattr(local, "sample_tokens", off)
    counted = passes(monkeypatch)
    train(load_config(overrides=run_overrides(*STEPS)))
    assert len(counted) == 3
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("log-probabilities of the samples differ from the policy's by up to 0.005 nats") == 1


def test_bypass_and_correction_exclude_each_other() -> None:
    correction = "algorithm.rollout_correction"
    config = load_config(overrides=[f"{correction}.rollout_is=token", f"{correction}.bypass_mode=true"])
    with pytest.raises(ConfigError, match="leaves nothing to correct"):
        require_supported(config)


def half_silent(batch: GroupBatch) -> GroupBatch:
    """The first and third group have no advantage at all."""
    silent = torch.as_tensor(batch.group_index % 2 == 0)
    batch["advantages"] = batch["advantages"] * ~silent[:, None]
    return batch


@pytest.mark.parametrize("loss", LOSSES)
def test_groups_without_an_advantage_are_not_run_and_the_update_is_the_same(
    loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    gradients, fractions, tokens = [], [], []
    original = Policy.log_probs_and_values

    def count(policy: Policy, part: GroupBatch, *arguments: Any, **named: Any) -> Any:
        tokens.append(part.num_tokens)
        return original(policy, part, *arguments, **named)

    monkeypatch.setattr(Policy, "log_probs_and_values", count)
    for skip in ("true", "false"):
        config = configured(
            f"actor_rollout_ref.actor.policy_loss.loss_mode={loss}",
            f"actor_rollout_ref.actor.skip_zero_advantages={skip}",
        )
        actor = CapturingActor(model, config)
        batch = half_silent(make_batch(model))
        tokens.clear()
        stats = to_floats(update_actor(batch, actor, config, 1))
        gradients.append((actor.gradients[0], stats["actor/pg_loss"], sum(tokens)))
        fractions.append({name: value for name, value in stats.items() if "clipfrac" in name})
    (less, less_loss, less_tokens), (all_of, whole_loss, all_tokens) = gradients
    if LOSSES[loss].clip is not None and LOSSES[loss].zero_advantage_never_clips:
        assert fractions[0] == pytest.approx(fractions[1])
        assert any(0 < value < 1 for value in fractions[0].values())
    assert less_tokens < all_tokens
    assert less_loss == pytest.approx(whole_loss, abs=1e-12)
    for name in all_of:
        torch.testing.assert_close(less[name], all_of[name], atol=1e-10, rtol=1e-8)


def test_a_batch_without_any_advantage_is_an_optimizer_step_of_no_gradient() -> None:
    model = tiny_model("llama")
    config = configured("actor_rollout_ref.actor.policy_loss.loss_mode=gspo", SKIPS)
    batch = make_batch(model)
    batch["advantages"] = torch.zeros_like(batch["advantages"])
    actor = CapturingActor(model, config)
    update_actor(batch, actor, config, 1)
    assert actor.gradients[0].keys() == {name for name, _ in model.named_parameters()}
    assert all(not bool(gradient.any()) for gradient in actor.gradients[0].values())


@pytest.mark.parametrize(
    "term", ["actor_rollout_ref.actor.entropy_coeff=0.1", "actor_rollout_ref.actor.use_kl_loss=true", "own"]
)
def test_every_group_is_run_where_another_term_reads_it(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if term == "own":

        def own(old_log_prob: Tensor, log_prob: Tensor, **_: Any) -> tuple[Tensor, dict[str, Any]]:
            return (log_prob - old_log_prob).square().mean(), {}

        monkeypatch.setitem(POLICY_LOSS_REGISTRY, "vanilla", own)
        monkeypatch.setitem(LOSSES, "vanilla", PolicyLoss("vanilla"))  # the facts of a loss registered without any
        term = "actor_rollout_ref.actor.policy_loss.loss_mode=vanilla"
    model = tiny_model("llama")
    config = configured(term, SKIPS)
    batch = half_silent(make_batch(model))
    seen: list[int] = []
    original = Policy.log_probs_and_values

    def count(policy: Policy, part: GroupBatch, *arguments: Any, **named: Any) -> Any:
        seen.append(len(part.groups))
        return original(policy, part, *arguments, **named)

    monkeypatch.setattr(Policy, "log_probs_and_values", count)
    update_actor(batch, CapturingActor(model, config), config, 1)
    assert sum(seen) == len(batch.groups)
