import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gspo.algorithms import agg_loss, masked_mean, masked_sum, masked_var, masked_whiten

MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]


def losses_of(batch):
    return batch.advantages.clone().requires_grad_()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("normalisers", [{}, {"num_tokens": 40, "num_sequences": 9, "scale": 11}])
def test_agg_loss_and_its_gradient_are_the_formulas(oracle, mode, normalisers):
    batch = oracle.make_batch(per_token=True)
    ours, reference = losses_of(batch), losses_of(batch)
    names = {"num_tokens": "batch_num_tokens", "num_sequences": "global_batch_size", "scale": "loss_scale_factor"}
    loss = agg_loss(ours, batch.mask, mode, **{names[key]: value for key, value in normalisers.items()})
    cells = {(i, t): reference[i, t] for i, row in enumerate(oracle.tokens_of(batch.mask)) for t in row}
    expected = oracle.aggregate(cells, batch.mask, mode, **normalisers)
    torch.testing.assert_close(loss, expected)
    gradient, expected_gradient = torch.autograd.grad(loss, ours)[0], torch.autograd.grad(expected, reference)[0]
    torch.testing.assert_close(gradient, expected_gradient)
    assert (gradient[batch.mask == 0] == 0).all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("given_count", [None, 0, torch.tensor(0)])
def test_a_batch_without_a_token_has_loss_zero_and_no_gradient(mode, given_count):
    losses = torch.full((2, 3), math.nan, requires_grad=True)
    loss = agg_loss(losses, torch.zeros(2, 3), mode, batch_num_tokens=given_count, global_batch_size=given_count)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, losses)[0], torch.zeros(2, 3))


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(0, 6), max_size=4), mode=st.sampled_from(MODES), dp_size=st.sampled_from([1, 3]))
def test_micro_batches_add_up_to_the_batch(oracle, cuts, mode, dp_size):
    batch = oracle.make_batch(seed=1, per_token=True)
    info = {"batch_num_tokens": 17, "global_batch_size": torch.tensor(5), "loss_scale_factor": 6, "dp_size": dp_size}
    whole = agg_loss(batch.advantages, batch.mask, mode, **info)
    ends = [0, *sorted(cuts), 6]
    parts = [
        agg_loss(batch.advantages[start:stop], batch.mask[start:stop], mode, **info) for start, stop in pairwise(ends)
    ]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("mode", MODES)
def test_the_average_over_ranks_is_the_batch(oracle, mode):
    """Gradients are averaged over ranks, so that each rank's loss is multiplied by their number."""
    batch = oracle.make_batch(seed=1, per_token=True)
    info = {"batch_num_tokens": 17, "global_batch_size": 5}
    whole = agg_loss(batch.advantages, batch.mask, mode)
    ranks = [agg_loss(batch.advantages[r::2], batch.mask[r::2], mode, dp_size=2, **info) for r in range(2)]
    torch.testing.assert_close(sum(ranks) / 2, whole)


def test_agg_loss_errors_say_what_to_do():
    losses = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"^Invalid loss_agg_mode: mean\. Choose one of \['token-mean', "):
        agg_loss(losses, losses, "mean")
    with pytest.raises(ValueError, match=r"^loss_mat has shape \(2, 3\), but loss_mask \(2, 2\)$"):
        agg_loss(losses, losses[:, :2], "token-mean")
    with pytest.raises(ValueError, match=r"^\(global\) batch_num_tokens is required when dp_size > 1, got dp_size=2$"):
        agg_loss(losses, losses, "token-mean", dp_size=2)
    with pytest.raises(ValueError, match=r"^\(global\) global_batch_size is required when dp_size > 1"):
        agg_loss(losses, losses, "seq-mean-token-mean", dp_size=2)
    with pytest.raises(ValueError, match=r"^loss_scale_factor must be positive, got 0$"):
        agg_loss(losses, losses, "seq-mean-token-sum-norm", loss_scale_factor=0)


def test_masked_statistics_are_those_of_the_kept_values(oracle):
    batch = oracle.make_batch(seed=2, per_token=True)
    values, mask = batch.advantages, batch.mask
    kept = values[mask.bool()]
    torch.testing.assert_close(masked_sum(values, mask), kept.sum())
    torch.testing.assert_close(masked_mean(values, mask), kept.mean())
    torch.testing.assert_close(masked_var(values, mask), kept.var())
    torch.testing.assert_close(masked_var(values, mask, unbiased=False), kept.var(unbiased=False))
    rows = [sum(values[i, t] for t in row) / max(len(row), 1) for i, row in enumerate(oracle.tokens_of(mask))]
    torch.testing.assert_close(masked_mean(values, mask, axis=-1), torch.tensor(rows, dtype=torch.float64))
    white = (kept - kept.mean()) / (kept.var() + 1e-8).sqrt()
    torch.testing.assert_close(masked_whiten(values, mask)[mask.bool()], white)
    torch.testing.assert_close(masked_whiten(values, mask, shift_mean=False)[mask.bool()], white + kept.mean())
    assert (masked_whiten(values, mask)[mask == 0] == 0).all()


def test_masked_statistics_of_nothing_are_zero():
    values, nothing, one = torch.full((1, 2), math.nan), torch.zeros(1, 2), torch.tensor([[1, 0]])
    assert masked_mean(values, nothing).item() == masked_var(values, nothing).item() == 0
    assert torch.equal(masked_whiten(values, nothing), torch.zeros(1, 2))
    assert torch.equal(masked_whiten(torch.tensor([[5.0, 7.0]]), one), torch.zeros(1, 2))
