"""GDPO's advantage against a loop from the paper (arXiv 2601.05242)."""

from __future__ import annotations

import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gspo.algorithms import compute_gdpo_outcome_advantage, get_adv_estimator_fn
from gspo.config import load_config, require_supported
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.trainer.advantages import add_advantages
from gspo.world import Alone

INDEX = np.array(["a", "b", "a", "a", "b", "c"], dtype=object)
TERMS = torch.tensor([[1.0, -30], [0, 5], [0, 12], [1, 40], [0, 5], [1, 3]], dtype=torch.float64)
WEIGHTS = torch.tensor([[2.0, 0.5]], dtype=torch.float64).expand(6, 2)


def loop(terms: list[list[float]], weights: list[list[float]], by_std: bool) -> list[float]:
    totals = []
    for row, label in enumerate(INDEX):
        members = [i for i in range(6) if INDEX[i] == label]
        total = 0.0
        for k in range(len(terms[0])):
            scores = [terms[i][k] for i in members]
            alone = len(members) == 1
            mean, std = (0.0, 1.0) if alone else (statistics.mean(scores), statistics.stdev(scores))
            total += weights[row][k] * (terms[row][k] - mean) / ((std + 1e-6) if by_std else 1.0)
        totals.append(total)
    mean, std = statistics.mean(totals), statistics.stdev(totals)
    return [(total - mean) / (std + 1e-6) for total in totals]


@pytest.mark.parametrize("by_std", [True, False])
def test_against_the_paper(by_std: bool) -> None:
    mask = torch.tensor([[1, 1, 0]] * 5 + [[0, 1, 1]])
    advantages, returns = compute_gdpo_outcome_advantage(
        torch.zeros(6, 3, dtype=torch.float64),
        mask,
        INDEX,
        norm_adv_by_std_in_grpo=by_std,
        reward_terms=TERMS,
        reward_weights=WEIGHTS,
    )
    expected = torch.tensor(loop(TERMS.tolist(), WEIGHTS.tolist(), by_std), dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None] * mask)
    assert torch.equal(advantages, returns)


def test_a_rewards_scale_does_not_count() -> None:
    def advantages(scale: float) -> torch.Tensor:
        scaled = TERMS[:5] * torch.tensor([1.0, scale], dtype=torch.float64)
        return compute_gdpo_outcome_advantage(
            torch.zeros(5, 1), torch.ones(5, 1), INDEX[:5], reward_terms=scaled, epsilon=0.0 + 1e-12
        )[0]

    torch.testing.assert_close(advantages(1000), advantages(1), atol=1e-8, rtol=1e-8)


def test_without_terms_the_score_is_the_one_reward_and_equal_scores_teach_nothing() -> None:
    rewards = TERMS[:, :1]
    alone = get_adv_estimator_fn("gdpo")(rewards, torch.ones(6, 1), INDEX)[0]
    expected = torch.tensor(loop(rewards.tolist(), [[1.0]] * 6, True), dtype=torch.float64)
    torch.testing.assert_close(alone[:, 0], expected)
    assert get_adv_estimator_fn("gdpo")(torch.full((2, 1), 0.1), torch.ones(2, 1), INDEX[[0, 2]])[0].abs().max() == 0


def test_the_trainer_hands_over_each_reward() -> None:
    """A row without one of the rewards has weight 0 there."""
    outcomes = [
        Outcome(2.0 * t[0] + 0.5 * t[1], terms={"math": (2.0, t[0]), "d": (0.5, t[1])} if n < 4 else {"d": (0.5, t[1])})
        for n, t in enumerate([(1.0, -30.0), (0.0, 12.0), (1.0, 40.0), (0.0, 0.0), (0.0, 5.0), (0.0, 7.0)])
    ]
    responses = [Response([1], [0.0], "", "stop", outcome=outcome) for outcome in outcomes]
    groups = [Group(Prompt(f"f:{n}", (1,), "", ""), responses[4 * n : 4 * n + 4]) for n in range(2)]
    batch = GroupBatch.from_groups(groups)
    batch["token_level_rewards"] = batch["token_level_scores"]
    add_advantages(batch, load_config(overrides=["algorithm.adv_estimator=gdpo"]).algorithm, Alone())
    terms = torch.tensor([[-30.0, 1], [12, 0], [40, 1], [0, 0], [5, 0], [7, 0]])
    weights = torch.tensor([[0.5, 2]] * 4 + [[0.5, 0]] * 2)
    expected = compute_gdpo_outcome_advantage(
        batch["token_level_scores"],
        batch["response_mask"],
        batch.group_index,
        reward_terms=terms,
        reward_weights=weights,
        config=SimpleNamespace(),
    )[0]
    assert torch.equal(batch["advantages"], expected)


def test_it_is_refused_with_the_divergence_in_the_reward() -> None:
    config = load_config(overrides=["algorithm.adv_estimator=gdpo", "algorithm.use_kl_in_reward=true"])
    with pytest.raises(ValueError, match=r"^algorithm\.adv_estimator=gdpo normalises each reward on its own"):
        require_supported(config)
