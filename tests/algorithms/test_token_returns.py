import math
import statistics
from types import SimpleNamespace

import pytest
import torch

from gspo.algorithms import compute_gae_advantage_return, compute_reinforce_plus_plus_outcome_advantage


def whitened(values, mask):
    kept = values[mask.bool()].tolist()
    return (values - statistics.mean(kept)) / (statistics.variance(kept) + 1e-8) ** 0.5 * mask


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 1.0), (0.9, 0.7), (0.5, 0.0)])
def test_gae_is_the_sum_over_later_written_tokens(oracle, gamma, lam):
    batch = oracle.make_batch(seed=3, per_token=True)
    values, mask = batch.advantages, batch.mask
    rewards = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    raw = torch.zeros(6, 6, dtype=torch.float64)
    returns = torch.zeros(6, 6, dtype=torch.float64)
    for i, row in enumerate(oracle.tokens_of(mask)):
        deltas = []
        for k, t in enumerate(row):
            after = values[i, row[k + 1]] if k + 1 < len(row) else 0
            deltas.append(rewards[i, t] + gamma * after - values[i, t])
        for k, t in enumerate(row):
            raw[i, t] = sum((gamma * lam) ** (j - k) * deltas[j] for j in range(k, len(row)))
            returns[i, t] = raw[i, t] + values[i, t]
    advantages, result = compute_gae_advantage_return(rewards, values, mask, gamma, lam)
    torch.testing.assert_close(result, returns)
    torch.testing.assert_close(advantages, whitened(raw, mask))


def test_gae_does_not_see_what_the_policy_did_not_write():
    mask = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    rewards = torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    one, other = (torch.tensor([[0.5, hole, 0.25, hole]]) for hole in (9.0, math.nan))
    for left, right in zip(
        compute_gae_advantage_return(rewards, one, mask, 0.9, 0.8),
        compute_gae_advantage_return(rewards, other, mask, 0.9, 0.8),
        strict=True,
    ):
        assert torch.equal(left, right)


@pytest.mark.parametrize(("config", "gamma"), [(SimpleNamespace(gamma=0.8), 0.8), ({"gamma": 0.5}, 0.5), (None, 1.0)])
def test_reinforce_plus_plus_is_the_whitened_discounted_return(oracle, config, gamma):
    mask = oracle.make_batch().mask
    rewards = torch.randn(6, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    expected = torch.zeros(6, 6, dtype=torch.float64)
    for i, row in enumerate(oracle.tokens_of(mask)):
        for k, t in enumerate(row):
            expected[i, t] = sum(gamma ** (j - k) * rewards[i, row[j]] for j in range(k, len(row)))
    advantages, returns = compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config=config)
    torch.testing.assert_close(returns, expected)
    torch.testing.assert_close(advantages, whitened(expected, mask))
