"""The facts of `gspo.methods` are true of the functions, and what registers a function may add facts of its own."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from gspo.algorithms import (
    ADV_ESTIMATOR_REGISTRY,
    POLICY_LOSS_REGISTRY,
    LossAggMode,
    get_adv_estimator_fn,
    get_policy_loss_fn,
    register_adv_est,
    register_advantage,
    register_policy_loss,
    to_floats,
)
from gspo.methods import ADVANTAGES, AGGREGATIONS, LOSSES, SEQUENCE_BAND, TOKEN_BAND, Advantage, Band, PolicyLoss


def test_the_rows_are_those_of_the_registry() -> None:
    named = {name: row.name for row in LOSSES.values() for name in (row.name, *row.aliases)}
    assert set(named) == set(POLICY_LOSS_REGISTRY)
    for name, row in named.items():
        assert POLICY_LOSS_REGISTRY[name] is POLICY_LOSS_REGISTRY[row]
    assert set(ADVANTAGES) == set(ADV_ESTIMATOR_REGISTRY)
    assert get_args(LossAggMode) == AGGREGATIONS
    assert all(row.source for rows in (LOSSES, ADVANTAGES) for row in rows.values())


def inputs(zero_advantages: bool = False) -> dict[str, Tensor]:
    """Four responses of four tokens; for either sign of the advantage, token and sequence ratios beyond any range."""
    rows = [[2.0, -2.0, 0.1, 1e-4], [-3.0, 1.0, 0.3, 0.5], [0.3, 0.1, 2e-4, 2.0], [-2.0, 3.0, -0.1, -0.3]]
    drift = torch.tensor(rows, dtype=torch.float64)
    advantages = torch.tensor([[1.0], [-0.5], [2.0], [-1.0]], dtype=torch.float64).expand(4, 4)
    return {
        "old_log_prob": torch.full((4, 4), -2.0, dtype=torch.float64),
        "log_prob": (drift - 2).requires_grad_(),
        "advantages": torch.zeros_like(advantages) if zero_advantages else advantages,
        "response_mask": torch.ones(4, 4),
    }


def outcome(name: str, config: Any = None, **changes: bool) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Loss, gradient and metrics."""
    arguments = inputs(**changes)
    loss, metrics = get_policy_loss_fn(name)(**arguments, config=config)
    return loss, torch.autograd.grad(loss, arguments["log_prob"])[0], to_floats(metrics)


def same(one: tuple[Tensor, Tensor, Any], other: tuple[Tensor, Tensor, Any]) -> bool:
    return torch.equal(one[0], other[0]) and torch.equal(one[1], other[1]) and one[2] == other[2]


@pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES)
def test_the_clip_range_is_what_the_loss_takes_by_itself(row: PolicyLoss) -> None:
    by_itself = outcome(row.name)
    if row.clip is None:
        assert same(outcome(row.name, {"clip_ratio": 1e-3}), by_itself)
        return
    low, high = row.clip
    assert same(outcome(row.name, {"clip_ratio_low": low, "clip_ratio_high": high}), by_itself)
    assert not same(outcome(row.name, {"clip_ratio_low": low / 2, "clip_ratio_high": high}), by_itself)
    assert not same(outcome(row.name, {"clip_ratio_low": low, "clip_ratio_high": high / 2}), by_itself)


@pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES)
def test_the_aggregation_is_what_the_loss_takes_by_itself(row: PolicyLoss) -> None:
    parameters = inspect.signature(get_policy_loss_fn(row.name)).parameters
    assert parameters["loss_agg_mode"].default == row.aggregation


@pytest.mark.parametrize("row", LOSSES.values(), ids=LOSSES)
def test_what_is_said_of_the_clip_and_of_zero_advantages(row: PolicyLoss) -> None:
    _, _, metrics = outcome(row.name)
    assert ("actor/seq_clipfrac" in metrics) == row.sequence_clip
    assert (metrics["actor/pg_clipfrac"] > 0) == (row.clip is not None)
    assert row.clip_band == (None if row.clip is None else SEQUENCE_BAND if row.sequence_clip else TOKEN_BAND)
    loss, gradient, metrics = outcome(row.name, zero_advantages=True)
    assert (bool(loss == 0) and not gradient.any()) == row.zero_advantage_is_zero
    clipped = [metrics[name] for name in ("actor/pg_clipfrac", "actor/pg_clipfrac_lower")]
    assert (max(clipped) == 0) == row.zero_advantage_never_clips


def advantages(name: str, rewards: list[float], index: list[int]) -> Tensor:
    """Of responses of two tokens, the reward on the last."""
    tokens = torch.tensor([[0.0, reward] for reward in rewards], dtype=torch.float64)
    function = get_adv_estimator_fn(name)
    offered = {
        "token_level_rewards": tokens,
        "response_mask": torch.ones_like(tokens),
        "index": np.array(index),
        "values": torch.linspace(0, 1, tokens.numel(), dtype=torch.float64).view_as(tokens),
        "gamma": 1.0,
        "lam": 1.0,
    }
    taken = inspect.signature(function).parameters
    return function(**{key: value for key, value in offered.items() if key in taken})[0]


@pytest.mark.parametrize("row", ADVANTAGES.values(), ids=ADVANTAGES)
def test_what_is_said_of_an_advantage(row: Advantage) -> None:
    parameters = inspect.signature(get_adv_estimator_fn(row.name)).parameters
    assert ("values" in parameters) == row.needs_values
    assert ("reward_terms" in parameters) == row.per_reward
    rewards = [1.0, 0.25, 0.0, 7.0, 3.0, 2.5]
    found = advantages(row.name, rewards, [0, 0, 0, 1, 1, 1])
    other = advantages(row.name, rewards, [0, 0, 1, 1, 1, 1])
    assert (not torch.allclose(found, other)) == row.compares_groups
    deviations = [float(found.std()), float(found[:, 0].std())]  # over the tokens, over the responses
    whitened = abs(found.mean()) < 1e-6 and any(abs(deviation - 1) < 1e-4 for deviation in deviations)
    assert whitened == row.whitens


@pytest.mark.parametrize("row", ADVANTAGES.values(), ids=ADVANTAGES)
def test_the_fewest_responses_of_a_prompt(row: Advantage) -> None:
    def of(count: int) -> Tensor:
        return advantages(row.name, [0.5 * number for number in range(count)], [0] * count)

    assert of(row.min_responses).isfinite().all()
    if row.min_responses > 1:
        with pytest.raises(ValueError, match="at least 2 samples"):
            of(row.min_responses - 1)


def mine(**_: Any) -> None:
    """Stands for a loss or an advantage."""


def test_a_registration_without_facts_has_the_defaults() -> None:
    register_policy_loss("mine")(mine)
    assert LOSSES["mine"] == PolicyLoss("mine")
    assert LOSSES["mine"] == PolicyLoss(
        "mine",
        sequence_clip=False,
        clip=(0.2, 0.2),
        aggregation="token-mean",
        zero_advantage_is_zero=False,
        zero_advantage_never_clips=False,
        clip_band=TOKEN_BAND,
    )
    register_adv_est("mine")(mine)
    assert ADVANTAGES["mine"] == Advantage("mine", compares_groups=True, needs_values=False, min_responses=1)


def test_facts_are_kept() -> None:
    band = Band(high=0.2)
    register_policy_loss("mine", sequence_clip=True, clip=(0.01, 0.02), clip_band=band, source="a paper")(mine)
    assert LOSSES["mine"] == PolicyLoss("mine", True, (0.01, 0.02), clip_band=band, source="a paper")
    register_advantage("mine", compares_groups=False, needs_values=True)(mine)
    assert ADVANTAGES["mine"] == Advantage("mine", compares_groups=False, needs_values=True)


def test_the_same_again_is_no_conflict_and_other_facts_are() -> None:
    for _ in range(2):
        register_policy_loss("mine", clip=None)(mine)
        register_policy_loss("mine")(mine)  # says nothing that differs
    with pytest.raises(ValueError, match=r"^policy loss 'mine' has already been registered with other facts: "):
        register_policy_loss("mine", clip=(0.1, 0.1))(mine)
    with pytest.raises(ValueError, match=r"^policy loss 'mine' has already been registered: .* vs "):
        register_policy_loss("mine", clip=(0.1, 0.1))(lambda: None)
    with pytest.raises(ValueError, match=r"^advantage estimator 'grpo' has already been registered: .* vs "):
        register_advantage("grpo", min_responses=2)(mine)
    assert LOSSES["mine"] == PolicyLoss("mine", clip=None)
    assert ADVANTAGES["grpo"].min_responses == 1


@pytest.mark.parametrize(
    ("facts", "error", "message"),
    [
        ({"clip_range": (0.1, 0.2)}, TypeError, "clip_range, which is no fact: the facts are sequence_clip, clip, "),
        ({"aliases": ("yours",)}, TypeError, "aliases, which is no fact: "),
        ({"clip": 0.2}, ValueError, r"clip=0\.2 must be \(low, high\)"),
        ({"clip": (0.2, -0.1)}, ValueError, r"clip=\(0\.2, -0\.1\) must be \(low, high\)"),
        ({"clip": (1.5, 0.1)}, ValueError, "low at most 1"),
        ({"aggregation": "mean"}, ValueError, "aggregation='mean' is unknown: choose one of token-mean, "),
    ],
)
def test_facts_that_cannot_be(facts: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"'mine'.* {message}|'mine': {message}|'mine'.*{message}"):
        register_policy_loss("mine", **facts)
    assert "mine" not in LOSSES


def test_an_unknown_fact_of_an_advantage_lists_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"'mine' .* needs_value, .*: the facts are compares_groups, needs_values, "):
        register_advantage("mine", needs_value=True)
    with pytest.raises(ValueError, match="min_responses=0 must be 1 or more"):
        register_advantage("mine", min_responses=0)
