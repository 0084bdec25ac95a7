"""PPO's value critic in the trainer: advantages, updates, warmup, checkpoints; loops and padded forwards as oracles."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_helpers import random_groups, tiny_model
from torch import Tensor, nn

from gspo.algorithms.kl import AdaptiveKLController
from gspo.algorithms.stats import Mean, Stat, to_floats
from gspo.checkpoint import CheckpointError, load_checkpoint
from gspo.cli import main
from gspo.config import Config, load_config, notices, require_supported
from gspo.groups import GroupBatch, Outcome
from gspo.models import Scorer
from gspo.models.scratch import make_model_folder
from gspo.observe import PhaseClock
from gspo.trainer import opened, train
from gspo.trainer.advantages import add_advantages, add_rewards
from gspo.trainer.batching import Cut, mini_batches
from gspo.trainer.trained import TrainedScorer
from gspo.trainer.value_critic import ValueCritic
from gspo.world import Alone

Overrides = Callable[..., list[str]]
PPO = ("algorithm.adv_estimator=gae", "actor_rollout_ref.actor.policy_loss=ppo", "critic.optim.lr=1e-3")
# Decoders compute norms and rotary angles in float32 whatever their dtype.
_TOLERANCE = 2e-5


def settings(*overrides: str) -> Config:
    return load_config(overrides=["data.train_batch_size=64", *PPO, *overrides])


def batch_of(seed: int, num_groups: int = 4) -> GroupBatch:
    """Groups with rewards, some tokens of which the policy did not write, responses of length 0 and 1 among them."""
    draw = random.Random(seed)
    groups = random_groups(seed, num_groups)
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(draw.gauss(0, 1))
            if len(response) > 3:
                response.loss_mask = [True, *(draw.random() < 0.6 for _ in response.token_ids[2:]), True]
    batch = GroupBatch.from_groups(groups)
    for name in list(batch.tensors):
        batch[name] = batch[name].double()
    return batch


def value_critic(critic: TrainedScorer, config: Config) -> ValueCritic:
    return ValueCritic(critic, config.critic, Cut.of_critic(config.critic, config.trainer.seed), PhaseClock(), Alone())


def add_values(batch: GroupBatch, critic: TrainedScorer, config: Config) -> None:
    assert value_critic(critic, config).prepare(batch) == {}


def update_critic(batch: GroupBatch, critic: TrainedScorer, config: Config, step: int) -> dict[str, Stat]:
    """The critic's updates of one step, as a run of this configuration makes them."""
    return value_critic(critic, config).update(batch, batch.groups, step)


def add_scores_and_advantages(batch: GroupBatch, config: Config) -> None:
    add_rewards(batch, None, config.algorithm, Alone())  # type: ignore[arg-type]  # no divergence is asked for
    add_advantages(batch, config.algorithm, Alone())


def tiny_critic(config: Config) -> TrainedScorer:
    """With a head that is not zero, so that gradients reach the decoder."""
    scorer = Scorer(tiny_model("llama"))
    with torch.no_grad():
        for parameter in scorer.model["head"].parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(7))
    return TrainedScorer(scorer, config.critic.optim, total_steps=10)


def prepared(config: Config, seed: int = 0) -> tuple[GroupBatch, TrainedScorer]:
    """A batch with values and returns; the values moved a little, as if the critic had been updated since."""
    batch, critic = batch_of(seed), tiny_critic(config)
    add_values(batch, critic, config)
    add_scores_and_advantages(batch, config)
    noise = torch.randn(batch["values"].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    batch["values"] = (batch["values"] + 0.3 * noise) * batch["response_mask"]
    return batch, critic


def padded_values(critic: TrainedScorer, batch: GroupBatch) -> tuple[Tensor, nn.Module]:
    """Each response on its own behind its prompt, values read before each token (responses, width); the model used."""
    model = copy.deepcopy(critic.module)
    model["decoder"].config._attn_implementation = "eager"
    model.zero_grad()
    values = torch.zeros_like(batch["response_mask"])
    row = 0
    for group in batch.groups:
        for response in group.responses:
            if response.token_ids:
                ids = torch.tensor([[*group.prompt.token_ids, *response.token_ids]])
                hidden = model["decoder"](input_ids=ids, use_cache=False).last_hidden_state[0]
                start = len(group.prompt.token_ids) - 1
                found = hidden[start : start + len(response)] @ model["head"].weight[0] + model["head"].bias
                values = values.index_put((torch.tensor([row]), torch.arange(len(response))), found)
            row += 1
    return values, model


def loop_gae(batch: GroupBatch, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """(whitened advantages, returns), token by token in plain Python from arXiv 1506.02438."""
    mask, values = batch["response_mask"], batch["values"]
    advantages, returns = torch.zeros_like(mask), torch.zeros_like(mask)
    for row in range(len(batch)):
        written = mask[row].nonzero().flatten().tolist()
        for start, t in enumerate(written):
            total = 0.0
            for distance, s in enumerate(written[start:]):
                after = written[start + distance + 1 : start + distance + 2]
                next_value = float(values[row, after[0]]) if after else 0.0
                delta = float(batch["token_level_scores"][row, s]) + gamma * next_value - float(values[row, s])
                total += (gamma * lam) ** distance * delta
            advantages[row, t] = total
            returns[row, t] = total + float(values[row, t])
    chosen = advantages[mask.bool()].numpy()
    whitened = (advantages - chosen.mean()) / math.sqrt(chosen.var(ddof=1) + 1e-8)
    return whitened * mask, returns


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_gae_through_the_trainer(gamma: float, lam: float) -> None:
    config = settings(f"algorithm.gamma={gamma}", f"algorithm.lam={lam}", "critic.ppo_max_token_len_per_gpu=20")
    batch, critic = batch_of(3), tiny_critic(config)
    add_values(batch, critic, config)
    torch.testing.assert_close(
        batch["values"], padded_values(critic, batch)[0].detach(), atol=_TOLERANCE, rtol=_TOLERANCE
    )
    assert not batch["values"].requires_grad
    add_scores_and_advantages(batch, config)
    advantages, returns = loop_gae(batch, gamma, lam)
    torch.testing.assert_close(batch["returns"], returns, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(batch["advantages"], advantages, atol=1e-9, rtol=1e-9)


def oracle_loss(vpreds: Tensor, batch: GroupBatch, clip: float, mode: str) -> Tensor:
    """Token by token from the formula; mean over tokens, or over responses of their mean."""
    by_response, every = [], []
    for row in range(len(batch)):
        losses = []
        for t in batch["response_mask"][row].nonzero().flatten().tolist():
            v, old, target = vpreds[row, t], float(batch["values"][row, t]), float(batch["returns"][row, t])
            near = v.clamp(old - clip, old + clip)
            losses.append(0.5 * torch.maximum((v - target) ** 2, (near - target) ** 2))
        if losses:
            by_response.append(torch.stack(losses).mean())
            every += losses
    return torch.stack(every if mode == "token-mean" else by_response).mean()


def captured_update(config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Metrics and gradients of a step with one optimizer batch, whose optimizer step is left out."""
    batch, critic = prepared(config)
    monkeypatch.setattr(critic, "step", dict)
    stats = update_critic(batch, critic, config, step=1)
    return to_floats(stats), {name: p.grad for name, p in critic.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("clip", [0.1, 5.0])
def test_the_update_against_a_loop(mode: str, clip: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(f"critic.loss_agg_mode={mode}", f"critic.cliprange_value={clip}")
    metrics, found = captured_update(config, monkeypatch)
    batch, critic = prepared(config)
    vpreds, model = padded_values(critic, batch)
    loss = oracle_loss(vpreds, batch, clip, mode)
    loss.backward()
    expected = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        scale = max(1e-3, float(grad.abs().max()))
        assert float((found[name] - grad).abs().max()) / scale < 10 * _TOLERANCE, name
    vpreds, written = vpreds.detach(), batch["response_mask"].bool()
    values, returns = batch["values"][written].numpy(), batch["returns"][written].numpy()
    near = vpreds.clamp(batch["values"] - clip, batch["values"] + clip)
    clipped = ((near - batch["returns"]) ** 2 > (vpreds - batch["returns"]) ** 2)[written].double().mean()
    assert metrics["critic/vf_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert metrics["critic/vpred_mean"] == pytest.approx(float(vpreds[written].mean()), rel=1e-4)
    assert metrics["critic/vf_clipfrac"] == pytest.approx(float(clipped), abs=1e-12)
    assert (metrics["critic/vf_clipfrac"] > 0) is (clip < 1)
    assert metrics["critic/vf_explained_var"] == pytest.approx(1 - np.var(returns - values) / np.var(returns))
    assert metrics["critic/lr"] == 1e-3


@pytest.mark.parametrize(
    "mode", ["token-mean", "token-sum", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
)
def test_any_micro_batch_split_gives_the_same_update(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, expected = captured_update(settings(f"critic.loss_agg_mode={mode}"), monkeypatch)
    for split in ("ppo_max_token_len_per_gpu=20", "ppo_micro_batch_size_per_gpu=1", "ppo_micro_batch_size_per_gpu=3"):
        metrics, found = captured_update(settings(f"critic.loss_agg_mode={mode}", f"critic.{split}"), monkeypatch)
        assert metrics == pytest.approx(whole, rel=1e-5, abs=1e-9)
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            scale = max(1e-3, float(grad.abs().max()))
            assert float((found[name] - grad).abs().max()) / scale < _TOLERANCE, name


@pytest.mark.parametrize(("size", "epochs", "steps"), [(64, 1, 1), (2, 1, 2), (3, 2, 4), (1, 1, 4)])
def test_mini_batches_are_prompts_and_epochs_repeat_them(size: int, epochs: int, steps: int) -> None:
    config = settings(f"critic.ppo_mini_batch_size={size}", f"critic.ppo_epochs={epochs}")
    batch, critic = prepared(config)
    stats = update_critic(batch, critic, config, step=1)
    skipped = stats["critic/skipped_steps"]
    assert isinstance(skipped, Mean)
    assert (float(skipped.count), float(skipped.total)) == (steps, 0)
    assert critic.schedule.last_epoch == 1


def test_shuffling_is_by_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    def order(shuffle: bool, step: int) -> list[str]:
        config = settings("critic.ppo_mini_batch_size=1", f"critic.shuffle={shuffle}")
        batch, critic = prepared(config)
        uids: list[str] = []
        values = critic.scorer.values
        monkeypatch.setattr(
            critic.scorer, "values", lambda part: uids.append(part.groups[0].prompt.uid) or values(part)
        )
        update_critic(batch, critic, config, step)
        return uids

    assert order(False, 1) == ["f:0", "f:1", "f:2", "f:3"]
    shuffled = [order(True, step) for step in range(1, 5)]
    assert [order(True, step) for step in range(1, 5)] == shuffled
    assert len({tuple(uids) for uids in shuffled}) > 1


def test_a_run_cuts_the_critics_updates_as_its_configuration_says(
    run_overrides: Overrides, monkeypatch: pytest.MonkeyPatch
) -> None:
    updates = ("critic.ppo_mini_batch_size=1", "critic.ppo_epochs=2", "critic.shuffle=true")
    config = load_config(overrides=run_overrides(*PPO, *updates, "trainer.seed=3"))
    batch, _ = prepared(config)
    for name in list(batch.tensors):
        batch[name] = batch[name].float()
    uids: list[str] = []
    with opened(config) as run:
        assert isinstance(run.critic, ValueCritic)
        scorer = run.critic.model.scorer
        values = scorer.values
        monkeypatch.setattr(scorer, "values", lambda part: uids.append(part.groups[0].prompt.uid) or values(part))
        run.critic.update(batch, batch.groups, 2)
    cuts = [Cut.of_critic(config.critic, seed) for seed in (3, 1)]
    expected, other = ([part.groups[0].prompt.uid for part in mini_batches(batch, cut, Alone(), 2)] for cut in cuts)
    assert uids == expected != other


def test_a_batch_without_a_written_token_moves_nothing() -> None:
    config = settings()
    groups = random_groups(0)[:1]
    for response in groups[0].responses:
        response.token_ids, response.log_probs, response.outcome = [], [], Outcome(1.0)
    batch, critic = GroupBatch.from_groups(groups), tiny_critic(config)
    before = copy.deepcopy(critic.module.state_dict())
    add_values(batch, critic, config)
    add_scores_and_advantages(batch, config)
    assert to_floats(update_critic(batch, critic, config, step=1)) == {"critic/lr": 1e-3}
    assert all(torch.equal(weight, before[name]) for name, weight in critic.module.state_dict().items())


def checkpoint_tensors(folder: Path, step: int) -> dict[str, Tensor]:
    tensors = load_checkpoint(folder / "checkpoints" / f"global_step_{step}").tensors
    return {f"{entry}/{name}": tensor for entry in tensors for name, tensor in tensors[entry].items()}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("timing", "perf/"))} for line in lines]


def test_warmup_skips_as_many_updates_of_the_actor_as_it_says(run_overrides: Overrides, tmp_path: Path) -> None:
    steps = ("trainer.total_training_steps=3", "trainer.critic_warmup=2", "trainer.save_freq=1")
    schedule = ("actor_rollout_ref.actor.optim.lr_scheduler_type=linear", "critic.optim.lr_scheduler_type=linear")
    run = train(load_config(overrides=run_overrides(*PPO, *steps, *schedule)))
    saved = [checkpoint_tensors(tmp_path / "run", step) for step in (1, 2, 3)]

    def moved(earlier: dict[str, Tensor], later: dict[str, Tensor], entry: str) -> bool:
        return any(not torch.equal(earlier[name], later[name]) for name in later if name.startswith(f"{entry}/"))

    assert not moved(saved[0], saved[1], "actor")
    assert moved(saved[1], saved[2], "actor")
    assert moved(saved[0], saved[1], "critic")
    assert moved(saved[1], saved[2], "critic")
    logged = metrics_of(tmp_path / "run")
    assert [step.get("actor/lr") for step in logged] == [None, None, 1e-3]
    assert [step["critic/lr"] for step in logged] == pytest.approx([1e-3, 2e-3 / 3, 1e-3 / 3])
    assert ["actor/pg_loss" in step for step in logged] == [False, False, True]
    timings = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all("timing_s/values" in step and "timing_s/update_critic" in step for step in timings)
    assert logged[0]["critic/values/max"] == logged[0]["critic/values/min"] == 0  # the head starts at zero
    assert logged[1]["critic/values/max"] > logged[1]["critic/values/min"]
    assert run.actor.schedule.last_epoch == 1


@pytest.mark.parametrize("stop", [1, 2, 3])  # an epoch has two steps
def test_resume_is_bit_exact_with_a_critic_and_adaptive_kl(stop: int, run_overrides: Overrides, tmp_path: Path) -> None:
    divergence = (
        "algorithm.use_kl_in_reward=true",
        "algorithm.kl_ctrl.type=adaptive",
        "algorithm.kl_ctrl.kl_coef=0.05",
        "algorithm.kl_ctrl.horizon=50",
        "algorithm.kl_ctrl.target_kl=1e-4",
    )
    updates = ("critic.ppo_epochs=2", "critic.shuffle=true", "trainer.critic_warmup=1", "algorithm.lam=0.95")
    coefficients = {}
    for name, ends in (("whole", [4]), ("parts", [stop, 4])):
        for end in ends:
            ending = (f"trainer.total_training_steps={end}", f"trainer.default_local_dir={tmp_path / name}")
            run = train(load_config(overrides=run_overrides(*PPO, *divergence, *updates, *ending)))
        coefficients[name] = run.parts["kl_controller"].state(run.step)["kl_controller"]["value"]
    assert coefficients["parts"] == coefficients["whole"] != 0.05
    whole, parts = (checkpoint_tensors(tmp_path / name, 4) for name in ("whole", "parts"))
    assert {name.partition("/")[0] for name in whole} == {"actor", "actor_optim", "critic", "critic_optim", "rng"}
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_divergence_in_the_reward_lies_on_every_token() -> None:
    """With gamma and lambda 1 a token's return is all reward from there on, whatever the values."""
    config = settings("algorithm.use_kl_in_reward=true", "algorithm.kl_penalty=k2")
    batch, critic = batch_of(1), tiny_critic(config)
    add_values(batch, critic, config)
    mask = batch["response_mask"]
    for seed, name in enumerate(("old_log_probs", "ref_log_prob")):
        draws = torch.rand(mask.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        batch[name] = -draws * mask
    controller = AdaptiveKLController(init_kl_coef=0.5, target_kl=0.01, horizon=100)
    stats = to_floats(add_rewards(batch, controller, config.algorithm, Alone()))
    add_advantages(batch, config.algorithm, Alone())
    divergence = 0.5 * (batch["old_log_probs"] - batch["ref_log_prob"]) ** 2
    rewards = batch["token_level_scores"] * (mask.cumsum(-1) > 0) - 0.5 * divergence
    torch.testing.assert_close(batch["returns"], rewards.flip(-1).cumsum(-1).flip(-1) * mask)
    current = (divergence.sum(-1) / mask.sum(-1).clamp(min=1)).mean().item()
    expected = {"actor/reward_kl_penalty": current, "actor/reward_kl_penalty_coeff": 0.5}
    assert stats == pytest.approx(expected)
    assert controller.value == pytest.approx(0.5 * (1 + 0.2 * len(batch) / 100))  # far above the target: bounded


def test_a_checkpoint_without_a_critic_is_refused_and_one_too_many_is_said(
    run_overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    train(load_config(overrides=run_overrides("trainer.total_training_steps=1")))
    with pytest.raises(CheckpointError, match=r"global_step_1 holds no critic, which this run trains: resume with the"):
        train(load_config(overrides=run_overrides(*PPO)))
    start_again = "trainer.resume_mode=disable"
    train(load_config(overrides=run_overrides(*PPO, start_again, "trainer.total_training_steps=1")))
    capsys.readouterr()
    train(load_config(overrides=run_overrides("trainer.logger=[console]")))
    said = " ".join(capsys.readouterr().out.split())
    assert "holds a critic, which this run does not train: it goes on without" in said


def test_a_critic_of_its_own_model(run_overrides: Overrides, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "other", hidden_size=16, num_layers=1, num_heads=2, max_positions=128, seed=5)
    run = train(load_config(overrides=run_overrides(*PPO, f"critic.model.path={folder}")))
    assert isinstance(run.critic, ValueCritic)
    assert run.critic.model.module["decoder"].config.hidden_size == 16
    assert run.actor.policy.model.config.hidden_size == 32


@pytest.mark.parametrize(
    ("characters", "positions", "message"),
    [
        ("abc", 128, "they do not belong together; set critic.model.path to a model that reads the actor's tokens"),
        (None, 10, "has 10 positions: lower data.max_response_length or data.max_prompt_length"),
    ],
)
def test_a_critic_that_does_not_fit(
    characters: str | None, positions: int, message: str, run_overrides: Overrides, tmp_path: Path
) -> None:
    shape = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_positions": positions}
    folder = make_model_folder(tmp_path / "other", **shape, **({"characters": characters} if characters else {}))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message):
        train(load_config(overrides=run_overrides(*PPO, f"critic.model.path={folder}")))


def test_a_critic_that_is_not_there(run_overrides: Overrides) -> None:
    with pytest.raises(ValueError, match=r"critic\.model\.path: there is no folder /nowhere/critic"):
        train(load_config(overrides=run_overrides(*PPO, "critic.model.path=/nowhere/critic")))


def test_the_ppo_command_of_the_guide_trains(run_overrides: Overrides, tmp_path: Path) -> None:
    command = ["train", "--config-path", "configs", "--config-name", "ppo_config"]
    small = ["actor_rollout_ref.actor.policy_loss=ppo", "actor_rollout_ref.actor.ppo_mini_batch_size=2"]
    assert main([*command, "algorithm.adv_estimator=gae", *run_overrides(*small)]) == 0
    last = metrics_of(tmp_path / "run")[-1]
    expected = ("vf_loss", "vf_clipfrac", "vpred_mean", "vf_explained_var", "grad_norm", "lr", "values/mean")
    assert {f"critic/{name}" for name in expected} <= last.keys()
    assert all(math.isfinite(value) for value in last.values() if isinstance(value, float))


def test_notices_and_limits_of_the_critic() -> None:
    config = load_config(overrides=["critic.ppo_epochs=2", "critic.optim.lr=1e-4", "actor_rollout_ref.rollout.n=8"])
    assert (
        "critic.optim.lr, critic.ppo_epochs: no effect without a critic (algorithm.adv_estimator=gae trains one)"
        in notices(config)
    )
    require_supported(settings())
    assert not any("critic" in notice for notice in notices(settings()))
    assert "trainer.gad_warmup_epochs: no effect without a discriminator (critic.model.path with grpo trains one)" in (
        notices(settings("trainer.gad_warmup_epochs=1"))
    )
    large = settings("critic.ppo_mini_batch_size=65")
    assert large.critic.ppo_mini_batch_size == 64
    assert "critic.ppo_mini_batch_size=65: more prompts than data.train_batch_size=64, so that 64 are taken" in (
        notices(large)
    )
