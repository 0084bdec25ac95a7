"""What is GSPO's own: its gradient in closed form, its token form, its figures."""

import math

import pytest
import torch

from gspo.algorithms import PolicyLossSettings, compute_policy_loss_gspo, compute_policy_loss_gspo_token, to_floats

FORMS = [compute_policy_loss_gspo, compute_policy_loss_gspo_token]
WIDE = PolicyLossSettings(clip_ratio=1e6)


def closed_form_gradient(oracle, batch, low, high):
    """-s_i A_i / |y_i| / G at each written token, and 0 where the clip is active."""
    old, new, advantages, mask = (tensor.detach() for tensor in batch.inputs)
    rows = oracle.tokens_of(mask)
    num_responses = sum(1 for row in rows if row)
    result = torch.zeros_like(new)
    for i, row in enumerate(rows):
        if not row:
            continue
        advantage = advantages[i, row[0]]
        ratio = math.exp(sum(float(new[i, t] - old[i, t]) for t in row) / len(row))
        cut = (ratio > 1 + high and advantage > 0) or (ratio < 1 - low and advantage < 0)
        for t in row:
            result[i, t] = 0 if cut else -ratio * advantage / len(row) / num_responses
    return result


@pytest.mark.parametrize("function", FORMS)
@pytest.mark.parametrize(("low", "high"), [(1e6, 1e6), (0.1, 0.2), (3e-4, 4e-4)])
def test_gradient_is_the_papers(oracle, function, low, high):
    for seed in range(5):
        batch = oracle.make_batch(seed)
        loss, _ = function(*batch.inputs, config=PolicyLossSettings(clip_ratio_low=low, clip_ratio_high=high))
        gradient = torch.autograd.grad(loss, batch.log_prob)[0]
        torch.testing.assert_close(gradient, closed_form_gradient(oracle, batch, low, high))


@pytest.mark.parametrize(
    "mode", ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
)
@pytest.mark.parametrize("drift", [0.0, 0.2, 30.0])
def test_the_token_form_is_the_sequence_form(oracle, mode, drift):
    """Also where the bound on the ratio is active (drift 30)."""
    batch = oracle.make_batch(7, drift)
    results = [function(*batch.inputs, mode, PolicyLossSettings(clip_ratio=0.1)) for function in FORMS]
    (loss, metrics), (token_loss, token_metrics) = results
    torch.testing.assert_close(loss, token_loss)
    gradients = [torch.autograd.grad(value, batch.log_prob)[0] for value, _ in results]
    torch.testing.assert_close(*gradients)
    assert to_floats(metrics) == pytest.approx(to_floats(token_metrics))


@pytest.mark.parametrize("function", FORMS)
def test_on_policy_the_loss_is_minus_the_mean_advantage(oracle, function):
    batch = oracle.make_batch(8, drift=0.0)
    loss, metrics = function(*batch.inputs)
    written = batch.mask.bool().any(dim=-1)
    advantages = batch.advantages.nan_to_num(0).sum(dim=-1) / batch.mask.sum(dim=-1).clamp(min=1)
    torch.testing.assert_close(loss, -advantages[written].mean())
    clipped = {"actor/pg_clipfrac": 0, "actor/ppo_kl": 0, "actor/pg_clipfrac_lower": 0}
    clipped |= {"actor/seq_clipfrac": 0, "actor/token_clipfrac": 0}
    assert to_floats(metrics) == clipped | {f"actor/seq_ratio/{name}": 1 for name in ("mean", "min", "max")}


@pytest.mark.parametrize("function", FORMS)
def test_metrics_tell_sequences_from_tokens(function):
    # Mean log-ratios 0.1 (of 0.3, 0, 0), -0.2 and 0.5 (of 0.5), the last with A < 0; the fourth response is empty.
    log_ratio = torch.tensor([[0.3, 0.0, 0.0], [-0.2, -0.2, math.nan], [0.5, 9.0, 9.0], [9.0, 9.0, 9.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    advantages = torch.tensor([[1.0], [-1.0], [-1.0], [1.0]]).expand(4, 3)
    config = PolicyLossSettings(clip_ratio=0.05)
    _, metrics = function(torch.zeros(4, 3), log_ratio, advantages, mask, config=config)
    ratios = [math.exp(0.1), math.exp(-0.2), math.exp(0.5)]
    expected = {
        "actor/pg_clipfrac": 5 / 6,  # all tokens of the first two responses
        "actor/ppo_kl": -(0.3 - 0.4 + 0.5) / 6,
        "actor/pg_clipfrac_lower": 0,
        "actor/seq_clipfrac": 2 / 3,
        "actor/token_clipfrac": 3 / 6,  # 0.3 with A > 0, -0.2 twice with A < 0
        "actor/seq_ratio/mean": sum(ratios) / 3,
        "actor/seq_ratio/min": ratios[1],
        "actor/seq_ratio/max": ratios[2],
    }
    assert to_floats(metrics) == pytest.approx(expected)


@pytest.mark.parametrize("function", FORMS)
def test_a_token_clip_range_clips_no_sequence(function):
    """Token ratios far apart, whose mean stays near 1."""
    log_ratio = torch.tensor([[0.9, -0.9, 0.05, 0.0]])
    _, metrics = function(torch.zeros(1, 4), log_ratio, torch.ones(1, 4), torch.ones(1, 4), config={"clip_ratio": 0.2})
    assert float(metrics["actor/seq_clipfrac"]) == 0
    assert float(metrics["actor/token_clipfrac"]) == 1 / 4


@pytest.mark.parametrize("function", FORMS)
def test_the_ratio_is_bounded_where_the_clip_does_not_bound_it(function):
    log_prob = torch.full((1, 2), 50.0, requires_grad=True)
    loss, metrics = function(torch.zeros(1, 2), log_prob, -torch.ones(1, 2), torch.ones(1, 2), config=WIDE)
    assert loss.item() == pytest.approx(math.exp(10))
    assert float(metrics["actor/seq_ratio/max"]) == pytest.approx(math.exp(10))
    assert torch.equal(torch.autograd.grad(loss, log_prob)[0], torch.zeros(1, 2))


def test_a_long_response_weighs_as_much_as_a_short_one():
    log_prob = torch.zeros(2, 100, requires_grad=True)
    mask = torch.zeros(2, 100)
    mask[0, :] = 1
    mask[1, :5] = 1
    loss, _ = compute_policy_loss_gspo(torch.zeros(2, 100), log_prob, torch.ones(2, 100), mask)
    per_response = torch.autograd.grad(loss, log_prob)[0].sum(dim=-1)
    torch.testing.assert_close(per_response, torch.tensor([-0.5, -0.5]))
