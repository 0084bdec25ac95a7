"""docs/from_verl.md, "Functions whose values differ": each row's value here, and verl's by its formula."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from gspo.algorithms import (
    compute_gdpo_outcome_advantage,
    compute_grpo_outcome_advantage,
    compute_is_metrics,
    compute_offpolicy_metrics,
    compute_policy_loss_geo_mean,
    compute_rloo_outcome_advantage,
    compute_rloo_vectorized_outcome_advantage,
    compute_rollout_correction_and_rejection_mask,
    to_floats,
)

_PAGE = Path(__file__).parents[2] / "docs" / "from_verl.md"
# One prompt with two responses, another with three; their lengths differ.
_SCORES, _GROUPS, _LENGTHS = [0.0, 1.0, 0.0, 0.0, 1.0], [0, 0, 1, 1, 1], [1, 4, 2, 2, 3]


def rewards_and_mask(scores: list[float] = _SCORES) -> tuple[torch.Tensor, torch.Tensor]:
    rewards, mask = torch.zeros(5, 4), torch.zeros(5, 4)
    for row, (score, length) in enumerate(zip(scores, _LENGTHS, strict=True)):
        rewards[row, length - 1], mask[row, :length] = score, 1
    return rewards, mask


def gdpo() -> None:
    rewards, mask = rewards_and_mask()
    normalised = []
    for score, group in zip(_SCORES, _GROUPS, strict=True):
        own = [s for s, g in zip(_SCORES, _GROUPS, strict=True) if g == group]
        normalised.append((score - statistics.mean(own)) / (statistics.stdev(own) + 1e-6))
    of_tokens = [value for value, length in zip(normalised, _LENGTHS, strict=True) for _ in range(length)]
    verl = [
        (value - statistics.mean(of_tokens)) / math.sqrt(statistics.variance(of_tokens) + 1e-8) for value in normalised
    ]
    here = [(v - statistics.mean(normalised)) / (statistics.stdev(normalised) + 1e-6) for v in normalised]
    found = compute_gdpo_outcome_advantage(rewards, mask, np.array(_GROUPS))[0][:, 0].tolist()
    assert found == pytest.approx(here, abs=1e-5)
    assert max(abs(a - b) for a, b in zip(found, verl, strict=True)) > 0.1


def rloo_vectorized() -> None:
    rewards, mask, index = torch.tensor([[0.7], [1.0], [0.0]]), torch.ones(3, 1), np.array([0, 1, 1])
    for function in (compute_rloo_outcome_advantage, compute_rloo_vectorized_outcome_advantage):
        assert function(rewards, mask, index)[0][:, 0].tolist() == pytest.approx([0.7, 1.0, -1.0])


def geo_mean() -> None:
    old, mask, advantages = torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
    new = torch.tensor([[12.0, 14.0], [0.0, 0.0]])
    mask[1, 1] = 0
    found, _ = compute_policy_loss_geo_mean(old, new, advantages, mask)
    verl = (math.exp(13) - 1) / 2
    assert float(found) == pytest.approx((math.exp(10) - 1) / 2, rel=1e-6)
    assert verl > 15 * float(found)
    inside = torch.tensor([[1.0, 3.0], [0.0, 0.0]])
    same, _ = compute_policy_loss_geo_mean(old, inside, advantages, mask)
    assert float(same) == pytest.approx((math.exp(2) - 1) / 2)
    of_tokens, _ = compute_policy_loss_geo_mean(old, inside, advantages, mask, "token-mean")
    assert float(of_tokens) == pytest.approx((2 * math.exp(2) - 1) / 3)


def equal_rewards() -> None:
    scores = torch.full((8, 1), 0.9)
    index = np.zeros(8, dtype=np.int64)
    assert not compute_grpo_outcome_advantage(scores, torch.ones(8, 1), index)[0].any()
    left = scores - scores.mean()  # verl's
    assert float((left / (left.std() + 1e-6)).abs().max()) > 1e-3


def weights_are_a_tensor() -> None:
    old, mask = torch.full((1, 2), -1.0), torch.ones(1, 2)
    weights, _, _ = compute_rollout_correction_and_rejection_mask(old, old + 0.5, mask, rollout_is="token")
    assert isinstance(weights, torch.Tensor)
    assert weights.tolist()[0] == pytest.approx([math.exp(-0.5)] * 2)


def empty_responses_of_weights() -> None:
    weights, mask = torch.tensor([[3.0, 3.0], [0.0, 0.0]]), torch.tensor([[1, 1], [0, 0]])
    ratio = weights.log().nan_to_num(neginf=0.0).sum(-1, keepdim=True)
    figures = to_floats(compute_is_metrics(weights, weights, ratio, mask, "sequence", 2.0))
    assert figures["rollout_is_ratio_fraction_high"] == 1.0  # of verl's two it is one half
    assert figures["rollout_is_min"] == pytest.approx(9.0)  # verl's is 1, that of the empty response


def empty_responses_of_drift() -> None:
    old, mask = torch.tensor([[-1.0, -1.0], [-5.0, -5.0]]), torch.tensor([[1, 1], [0, 0]])
    assert to_floats(compute_offpolicy_metrics(old, None, mask)) == pytest.approx(
        {"training_ppl": math.e, "training_log_ppl": 1.0}  # verl's mean with the empty one's 1 and 0 is half as far
    )


_ROWS: dict[str, Callable[[], None]] = {
    "compute_gdpo_outcome_advantage": gdpo,
    "compute_rloo_vectorized_outcome_advantage": rloo_vectorized,
    "compute_policy_loss_geo_mean": geo_mean,
    "compute_grpo_outcome_advantage": equal_rewards,
    "compute_rollout_correction_and_rejection_mask": weights_are_a_tensor,
    "compute_is_metrics": empty_responses_of_weights,
    "compute_offpolicy_metrics": empty_responses_of_drift,
}


@pytest.mark.parametrize("name", _ROWS)
def test_the_value_is_the_one_that_the_page_says(name: str) -> None:
    _ROWS[name]()


def test_every_function_of_the_page_is_tested() -> None:
    table = _PAGE.read_text(encoding="utf-8").split("## Functions whose values differ")[1].split("\nFigures are")[0]
    named = [name for row in table.splitlines() for name in re.findall(r"`(compute_\w+)`", row.split(" | ")[0])]
    assert sorted(named) == sorted(_ROWS)


def test_without_a_token_that_counts_losses_and_figures_are_zero() -> None:
    zeros, mask = torch.zeros(1, 2), torch.zeros(1, 2)
    loss, _ = compute_policy_loss_geo_mean(zeros, zeros, zeros, mask)
    assert float(loss) == 0.0
    figures = to_floats(compute_offpolicy_metrics(zeros, zeros, mask))
    assert figures["kl"] == figures["chi2_seq"] == figures["training_ppl"] == 0.0
