import math

import pytest
import torch

from gspo.algorithms import compute_value_loss, explained_variance, explained_variance_sums, merge_stats

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def value_batch(oracle):
    batch = oracle.make_batch(1, per_token=True)
    return batch.log_prob, batch.advantages, batch.old_log_prob, batch.mask  # vpreds, returns, values, mask


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalisers", [{}, {"batch_num_tokens": 40, "global_batch_size": 9, "loss_scale_factor": 8}])
def test_value_loss_is_the_larger_of_two_squared_errors(oracle, mode, normalisers):
    vpreds, returns, values, mask = value_batch(oracle)
    loss, clipfrac = compute_value_loss(vpreds, returns, values, mask, 0.3, mode, **normalisers)
    cells, clipped = {}, []
    for i, row in enumerate(oracle.tokens_of(mask)):
        for t in row:
            near = torch.clamp(vpreds[i, t], values[i, t].item() - 0.3, values[i, t].item() + 0.3)
            plain, bounded = (vpreds[i, t] - returns[i, t]) ** 2, (near - returns[i, t]) ** 2
            cells[i, t] = 0.5 * torch.max(plain, bounded)
            clipped.append(bool(bounded > plain))
    names = {"batch_num_tokens": "num_tokens", "global_batch_size": "num_sequences", "loss_scale_factor": "scale"}
    expected = oracle.aggregate(cells, mask, mode, **{names[key]: value for key, value in normalisers.items()})
    torch.testing.assert_close(loss, expected)
    ours, theirs = torch.autograd.grad(loss, vpreds)[0], torch.autograd.grad(expected, vpreds)[0]
    torch.testing.assert_close(ours, torch.where(mask.bool(), theirs, 0.0))
    assert 0 < sum(clipped) < len(clipped)
    assert float(clipfrac) == sum(clipped) / len(clipped)


def test_value_loss_sums_over_ranks(oracle):
    vpreds, returns, values, mask = value_batch(oracle)
    one, _ = compute_value_loss(vpreds, returns, values, mask, 0.3, batch_num_tokens=17)
    two, _ = compute_value_loss(vpreds, returns, values, mask, 0.3, batch_num_tokens=17, dp_size=2)
    torch.testing.assert_close(two, 2 * one)
    with pytest.raises(ValueError, match=r"^cliprange_value cannot be negative, got -1$"):
        compute_value_loss(vpreds, returns, values, mask, -1)


def test_explained_variance_of_parts_is_that_of_the_whole(oracle):
    _, returns, values, mask = value_batch(oracle)
    keep = mask.bool()
    errors = returns[keep] - values[keep]
    expected = 1 - errors.var(unbiased=False) / returns[keep].var(unbiased=False)
    whole = explained_variance_sums(values, returns, mask)
    rows = [slice(0, 1), slice(1, 5), slice(5, 6)]
    parts = merge_stats(explained_variance_sums(values[row], returns[row], mask[row]) for row in rows)
    assert explained_variance(whole) == pytest.approx(float(expected))
    assert explained_variance(parts) == pytest.approx(float(expected))


@pytest.mark.parametrize(("values", "expected"), [([1.0, 3.0], 1.0), ([7.0, 7.0], 0.0), ([2.0, 4.0], 1.0)])
def test_explained_variance_of_known_critics(values, expected):
    returns = torch.tensor([[1.0, 3.0, math.nan]])
    values, mask = torch.tensor([[*values, math.nan]]), torch.tensor([[1, 1, 0]])
    assert explained_variance(explained_variance_sums(values, returns, mask)) == pytest.approx(expected)


def test_explained_variance_of_constant_returns_is_zero():
    ones = torch.ones(2, 2)
    assert explained_variance(explained_variance_sums(2 * ones, ones, ones)) == 0


def test_explained_variance_survives_a_large_mean():
    returns = 1000 + torch.tensor([[0.0, 0.125, 0.25, 0.375]])
    values = 1000 + torch.tensor([[0.125, 0.125, 0.25, 0.25]])
    expected = 1 - (returns - values).double().var() / returns.double().var()
    assert explained_variance(explained_variance_sums(values, returns, torch.ones(1, 4))) == pytest.approx(
        float(expected)
    )
