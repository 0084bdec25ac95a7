"""Every policy loss and advantage by its name, with its settings; those of the user's own; rollout correction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from gspo.algorithms import (
    compute_reinforce_plus_plus_outcome_advantage,
    compute_rollout_correction_and_rejection_mask,
    get_adv_estimator_fn,
)
from gspo.algorithms.stats import to_floats
from gspo.config import Config, load_config
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.methods import ADVANTAGES, LOSSES
from gspo.models import load_tokenizer
from gspo.rollout import ScriptedEngine
from gspo.trainer import Given, opened, train, train_run
from gspo.trainer import advantages as module
from gspo.trainer.batching import counted
from gspo.trainer.policy_update import loss_mask, loss_settings
from gspo.trainer.preparation import correct_rollout
from gspo.world import Alone

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]
EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "my_loss.py"
OUTCOME_ESTIMATORS = [name for name, row in ADVANTAGES.items() if not row.needs_values]


def make_batch(rewards: tuple[tuple[float, ...], ...] = ((1, 0, 0.5), (0.25, 0.75))) -> GroupBatch:
    """Groups of responses of two and three tokens, with rollout log-probabilities of -1."""
    groups = [
        Group(
            Prompt(f"p{number}", (3,), "p", "source"),
            [
                Response([4] * (2 + i % 2), [-1.0] * (2 + i % 2), "r", "stop", outcome=Outcome(float(reward)))
                for i, reward in enumerate(part)
            ],
        )
        for number, part in enumerate(rewards)
    ]
    batch = GroupBatch.from_groups(groups)
    batch["token_level_rewards"] = batch["token_level_scores"]
    return batch


def add_advantages(batch: GroupBatch, config: Config) -> None:
    module.add_advantages(batch, config.algorithm, Alone())


def last_metrics(folder: Path) -> dict[str, float]:
    return dict(json.loads((folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1]))


PAIRS = [(loss, "grpo") for loss in LOSSES] + [("gspo", name) for name in OUTCOME_ESTIMATORS if name != "grpo"]


@pytest.mark.parametrize(("loss", "estimator"), PAIRS)
def test_every_name_trains(loss: str, estimator: str, run_overrides: Overrides, tmp_path: Path) -> None:
    key = "actor_rollout_ref.actor.policy_loss"
    settings = (f"{key}={loss}", f"algorithm.adv_estimator={estimator}", "trainer.total_training_steps=1")
    train(load_config(overrides=run_overrides(*settings)))
    metrics = last_metrics(tmp_path / "run")
    assert metrics["actor/grad_norm"] > 0
    assert metrics["actor/skipped_steps"] == 0
    assert math.isfinite(metrics["actor/pg_loss"])


@pytest.mark.parametrize("name", OUTCOME_ESTIMATORS)
def test_an_estimator_by_name_is_the_function(name: str) -> None:
    batch, config = make_batch(), load_config(overrides=[f"algorithm.adv_estimator={name}"])
    add_advantages(batch, config)
    arguments = {"index": batch.group_index} if name != "reinforce_plus_plus" else {}
    expected = get_adv_estimator_fn(name)(batch["token_level_rewards"], batch["response_mask"], **arguments)
    torch.testing.assert_close((batch["advantages"], batch["returns"]), expected, rtol=0, atol=0)


def test_gamma_reaches_the_estimator() -> None:
    batch = make_batch()
    add_advantages(batch, load_config(overrides=["algorithm.adv_estimator=reinforce_plus_plus", "algorithm.gamma=0.5"]))
    expected = compute_reinforce_plus_plus_outcome_advantage(
        batch["token_level_rewards"], batch["response_mask"], config={"gamma": 0.5}
    )
    torch.testing.assert_close((batch["advantages"], batch["returns"]), expected, rtol=0, atol=0)
    assert batch["returns"][0].tolist() == [0.5, 1.0, 0.0]  # the reward 1 of a response of two tokens, discounted once


@pytest.mark.parametrize(
    ("name", "expected"),
    [("grpo", 0.5), ("grpo_vectorized", 0.5), ("grpo_passk", 0.5)],  # 1 - mean 0.5; best 1 - second best 0.5
)
def test_the_deviation_is_left_out_where_it_is_told_to_be(name: str, expected: float) -> None:
    batch = make_batch()
    settings = [f"algorithm.adv_estimator={name}", "algorithm.norm_adv_by_std_in_grpo=false"]
    add_advantages(batch, load_config(overrides=settings))
    assert batch["advantages"][0, 0] == expected


def test_gae_gets_the_values_and_its_numbers() -> None:
    batch = make_batch()
    batch["values"] = torch.linspace(0, 1, batch["response_mask"].numel()).view_as(batch["response_mask"])
    settings = ["algorithm.adv_estimator=gae", "algorithm.gamma=0.9", "algorithm.lam=0.8"]
    add_advantages(batch, load_config(overrides=settings))
    expected = get_adv_estimator_fn("gae")(
        batch["token_level_rewards"], batch["values"], batch["response_mask"], gamma=0.9, lam=0.8
    )
    torch.testing.assert_close((batch["advantages"], batch["returns"]), expected, rtol=0, atol=0)


def test_the_numbers_of_the_actor_reach_the_loss() -> None:
    actor = "actor_rollout_ref.actor"
    numbers = {"clip_ratio": 0.1, "clip_ratio_low": 0.15, "clip_ratio_high": 0.3, "clip_ratio_c": 4.0}
    settings = [f"{actor}.{name}={value}" for name, value in numbers.items()]
    own = ["loss_scale_factor=7", "policy_loss.tau_pos=2.5", "policy_loss.tau_neg=3.5"]
    config = load_config(overrides=[*settings, *(f"{actor}.{text}" for text in own)])
    found = loss_settings(config.actor_rollout_ref.actor, counted(loss_mask(make_batch()), Alone()))
    assert {name: getattr(found, name) for name in numbers} == numbers
    assert (found.loss_scale_factor, found.tau_pos, found.tau_neg) == (7, 2.5, 3.5)
    assert {name: float(value) for name, value in found.global_batch_info.items()} == {
        "dp_size": 1,
        "batch_num_tokens": 12,
        "global_batch_size": 5,
    }


OWN = (
    f"algorithm.external_modules=[{EXAMPLE}]",
    "actor_rollout_ref.actor.policy_loss=asymmetric_reinforce",
    "algorithm.adv_estimator=rank",
)


def test_the_example_of_ones_own_trains_twice_in_one_process(run_overrides: Overrides, tmp_path: Path) -> None:
    for steps in (1, 2):  # the second goes on from the first, and finds the file run already
        train(load_config(overrides=run_overrides(*OWN, f"trainer.total_training_steps={steps}")))
    metrics = last_metrics(tmp_path / "run")
    assert metrics["step"] == 2
    assert metrics["actor/grad_norm"] > 0
    assert -1 <= metrics["critic/advantages/min"] < 0 < metrics["critic/advantages/max"] <= 1
    batch = make_batch()
    add_advantages(batch, load_config(overrides=[*OWN]))
    assert batch["advantages"][:, 0].tolist() == pytest.approx([2 / 3, -2 / 3, 0, -1 / 2, 1 / 2])


def test_a_name_that_the_users_file_does_not_register_is_said_before_training(run_overrides: Overrides) -> None:
    overrides = run_overrides(*OWN[:2], "algorithm.adv_estimator=rnak")
    with pytest.raises(ValueError, match=r"algorithm\.adv_estimator=rnak is unknown: no file of"):
        train(load_config(overrides=overrides))


CORRECTION = "algorithm.rollout_correction"


def corrected_batch() -> GroupBatch:
    """The trainer finds the tokens of the first response e times as likely as the engine, others equally."""
    batch = make_batch()
    batch["old_log_probs"] = batch["rollout_log_probs"].clone()
    batch["old_log_probs"][0, :2] = 0.0
    return batch


def test_rollout_correction_leaves_a_mask_and_weights() -> None:
    batch = corrected_batch()
    settings = {"rollout_is": "token", "rollout_is_threshold": "2.0", "rollout_rs": "seq_mean_k1"}
    config = load_config(
        overrides=[f"{CORRECTION}.{k}={v}" for k, v in settings.items()] + [f"{CORRECTION}.rollout_rs_threshold=2.5"]
    )
    stats = to_floats(correct_rollout(batch, config.algorithm.rollout_correction))
    _, _, expected = compute_rollout_correction_and_rejection_mask(
        batch["old_log_probs"], batch["rollout_log_probs"], batch["response_mask"], **settings, rollout_rs_threshold=2.5
    )
    assert stats == to_floats(expected)
    assert batch["rollout_is_weights"][0].tolist() == [2.0, 2.0, 0.0]  # e, cut off at 2
    assert batch["rollout_is_weights"][1].tolist() == [1.0, 1.0, 1.0]
    assert loss_mask(batch).sum(-1).tolist() == [0, 3, 2, 2, 3]
    assert batch["response_mask"].sum(-1).tolist() == [2, 3, 2, 2, 3]
    normalisers = loss_settings(config.actor_rollout_ref.actor, counted(loss_mask(batch), Alone())).global_batch_info
    assert {name: float(value) for name, value in normalisers.items()} == {
        "dp_size": 1,
        "batch_num_tokens": 10,
        "global_batch_size": 4,
    }


def test_without_a_correction_nothing_is_left() -> None:
    batch = corrected_batch()
    assert correct_rollout(batch, load_config().algorithm.rollout_correction) == {}
    assert loss_mask(batch) is batch["response_mask"]
    assert "rollout_is_weights" not in batch.tensors


def weights_after(overrides: list[str]) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in train(load_config(overrides=overrides)).actor.policy.model.state_dict().items()}


def test_a_correction_of_an_engine_that_agrees_changes_nothing(run_overrides: Overrides, tmp_path: Path) -> None:
    """The local engine samples on the trainer's weights: ratios are 1 to rounding, and none is rejected."""
    plain = weights_after(run_overrides("trainer.total_training_steps=1"))
    corrected = weights_after(
        run_overrides(
            "trainer.total_training_steps=1",
            f"{CORRECTION}.rollout_is=token",
            f"{CORRECTION}.rollout_rs=token_k1",
            f"{CORRECTION}.rollout_rs_threshold=2.0",
            f"trainer.default_local_dir={tmp_path / 'corrected'}",
        )
    )
    for name, weight in plain.items():
        torch.testing.assert_close(corrected[name], weight, rtol=1e-3, atol=3e-5)
    metrics = last_metrics(tmp_path / "corrected")
    assert metrics["rollout_corr/rollout_is_mean"] == pytest.approx(1, abs=1e-4)
    assert metrics["rollout_corr/rollout_rs_masked_fraction"] == 0
    assert metrics["rollout_corr/kl"] == pytest.approx(0, abs=1e-4)


def scripted_engine(model: Path) -> ScriptedEngine:
    """Answers of different lengths, and so of different rewards, each token with log-probability 0."""
    return ScriptedEngine(lambda prompt, i, step: [5 + i] * (i + 2), load_tokenizer(str(model)))  # noqa: ARG005


@pytest.mark.parametrize(("threshold", "rejected"), [(2.0, 1.0), (1e6, 0.0)])
def test_an_engine_that_is_rejected_altogether_trains_nothing(
    threshold: float, rejected: float, run_overrides: Overrides, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """The trainer finds each token about a hundred times less likely than the engine says."""
    settings = (f"{CORRECTION}.rollout_rs=token_k1", f"{CORRECTION}.rollout_rs_threshold={threshold}")
    config = load_config(overrides=run_overrides("trainer.total_training_steps=1", *settings))
    with opened(config, Given(engine=scripted_engine(tiny_model_folder))) as run:
        before = {name: weight.clone() for name, weight in run.actor.policy.model.state_dict().items()}
        train_run(run)
    metrics = last_metrics(tmp_path / "run")
    assert metrics["rollout_corr/rollout_rs_masked_fraction"] == rejected
    assert ("actor/grad_norm" in metrics) is (rejected == 0)
    moved = any(not torch.equal(weight, before[name]) for name, weight in run.actor.policy.model.state_dict().items())
    assert moved is (rejected == 0)


def test_correction_takes_the_pass_for_old_log_probabilities_with_a_single_update(
    run_overrides: Overrides, tmp_path: Path
) -> None:
    """One optimizer step a rollout needs no such pass otherwise."""
    single = ("actor_rollout_ref.actor.ppo_mini_batch_size=4", "trainer.total_training_steps=1")
    train(load_config(overrides=run_overrides(*single)))
    assert "timing_s/old_log_prob" not in last_metrics(tmp_path / "run")
    settings = (f"{CORRECTION}.rollout_is=sequence", f"trainer.default_local_dir={tmp_path / 'corrected'}")
    train(load_config(overrides=run_overrides(*single, *settings)))
    metrics = last_metrics(tmp_path / "corrected")
    assert metrics["timing_s/old_log_prob"] > 0
    assert metrics["rollout_corr/rollout_is_eff_sample_size"] == pytest.approx(1, abs=1e-4)
