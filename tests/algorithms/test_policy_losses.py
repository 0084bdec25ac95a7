import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from gspo.algorithms import PolicyLossSettings, compute_policy_loss_sapo, get_policy_loss_fn, merge_stats, to_floats
from gspo.methods import LOSSES

NAMES = list(LOSSES)
MODES = ["token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm"]
CLIP = {"low": 0.15, "high": 0.25}
CONFIG = PolicyLossSettings(clip_ratio_low=0.15, clip_ratio_high=0.25, clip_ratio_c=1.5, tau_pos=0.7, tau_neg=1.3)


def with_info(**info):
    return PolicyLossSettings(**{**vars(CONFIG), "global_batch_info": info})


def gradient(loss, batch):
    return torch.autograd.grad(loss, batch.log_prob)[0]


def assert_matches(oracle, name, mode, batch, config, weights=None, **normalisers):
    loss, _ = get_policy_loss_fn(name)(*batch.inputs, mode, config, weights)
    cells = oracle.token_losses(name, batch, **CLIP, bound=1.5, taus=(0.7, 1.3))
    if weights is not None:
        cells = {cell: value * weights[cell] for cell, value in cells.items()}
    expected = oracle.aggregate(cells, batch.mask, mode, **normalisers)
    torch.testing.assert_close(loss, expected)
    ours, theirs = gradient(loss, batch), gradient(expected, batch)
    torch.testing.assert_close(ours, torch.where(batch.mask.bool(), theirs, 0.0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient_are_the_formula(oracle, name, mode):
    for seed, drift in ((0, 0.05), (1, 0.5), (2, 2.0)):
        assert_matches(oracle, name, mode, oracle.make_batch(seed, drift), CONFIG)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", [name for name in NAMES if name != "geo_mean"])
def test_advantages_and_weights_may_vary_along_a_response(oracle, name, mode):
    batch = oracle.make_batch(3, per_token=True)
    weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    weights[batch.mask == 0] = math.nan
    assert_matches(oracle, name, mode, batch, CONFIG, weights)


@pytest.mark.parametrize("name", NAMES)
def test_the_normalisers_of_the_whole_batch_are_used(oracle, name):
    batch = oracle.make_batch(4)
    info = {"batch_num_tokens": 40, "global_batch_size": 9}
    assert_matches(oracle, name, "token-mean", batch, with_info(**info), num_tokens=40)
    assert_matches(oracle, name, "seq-mean-token-mean", batch, with_info(**info), num_sequences=9)
    for config in (
        with_info(**info, loss_scale_factor=20),
        PolicyLossSettings(**{**vars(CONFIG), "loss_scale_factor": 20, "global_batch_info": info}),
    ):
        assert_matches(oracle, name, "seq-mean-token-sum-norm", batch, config, num_sequences=9, scale=20)


def test_geo_mean_takes_the_geometric_mean_of_the_weights(oracle):
    batch = oracle.make_batch(5)
    weights = torch.rand(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.5
    means = weights.clone()
    for i, row in enumerate(oracle.tokens_of(batch.mask)):
        means[i] = math.prod(float(weights[i, t]) for t in row) ** (1 / max(len(row), 1))
    loss, _ = get_policy_loss_fn("geo_mean")(*batch.inputs, "seq-mean-token-mean", CONFIG, weights)
    cells = oracle.token_losses("geo_mean", batch, **CLIP, bound=1.5, taus=(1, 1))
    expected = oracle.aggregate({cell: value * means[cell] for cell, value in cells.items()}, batch.mask, "token-mean")
    by_mode, _ = get_policy_loss_fn("geo_mean")(*batch.inputs, "token-mean", CONFIG, weights)
    torch.testing.assert_close(by_mode, expected)
    assert loss.item() != by_mode.item()


@settings(deadline=None, max_examples=60)
@given(
    name=st.sampled_from(NAMES),
    mode=st.sampled_from(MODES),
    cuts=st.lists(st.integers(0, 6), max_size=4),
    seed=st.integers(0, 5),
    dp_size=st.sampled_from([1, 2]),
)
def test_any_split_has_the_loss_gradient_and_metrics_of_the_whole(oracle, name, mode, cuts, seed, dp_size):
    batch, function = oracle.make_batch(seed), get_policy_loss_fn(name)
    config = with_info(batch_num_tokens=17, global_batch_size=5, loss_scale_factor=6, dp_size=dp_size)
    whole, metrics = function(*batch.inputs, mode, config)
    ends = [0, *sorted(cuts), 6]
    parts = [batch.rows(start, stop) for start, stop in pairwise(ends)]
    results = [function(*part.inputs, mode, config) for part in parts]
    torch.testing.assert_close(sum(loss for loss, _ in results), whole)
    gradients = [gradient(loss, part) for (loss, _), part in zip(results, parts, strict=True)]
    torch.testing.assert_close(torch.cat(gradients), gradient(whole, batch))
    merged = to_floats(merge_stats(part_metrics for _, part_metrics in results))
    assert merged == pytest.approx(to_floats(metrics))


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_empty_responses_is_worth_nothing(name):
    log_prob = torch.full((2, 3), math.nan, requires_grad=True)
    loss, metrics = get_policy_loss_fn(name)(log_prob, log_prob, log_prob, torch.zeros(2, 3), config=CONFIG)
    assert loss.item() == 0
    assert torch.equal(torch.autograd.grad(loss, log_prob)[0], torch.zeros(2, 3))
    extremes = {"actor/seq_ratio/min": math.inf, "actor/seq_ratio/max": -math.inf}
    assert to_floats(metrics) == {key: extremes.get(key, 0.0) for key in metrics}


@pytest.mark.parametrize("name", NAMES)
def test_ratios_that_overflow_stay_finite(name):
    log_prob = torch.zeros(2, 3, requires_grad=True)
    old, advantages = torch.full((2, 3), -200.0), torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    loss, _ = get_policy_loss_fn(name)(old, log_prob, advantages, torch.ones(2, 3))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, log_prob)[0].isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_settings_come_from_any_kind_of_config(oracle, name):
    batch, function = oracle.make_batch(1), get_policy_loss_fn(name)
    keys = ("clip_ratio_low", "clip_ratio_high", "clip_ratio_c", "tau_pos", "tau_neg")
    plain = {key: getattr(CONFIG, key) for key in keys}
    info = {"global_batch_info": {"dp_size": 2, "batch_num_tokens": 30, "global_batch_size": 8}}
    expected, _ = function(*batch.inputs, config=with_info(**info["global_batch_info"]))
    for config in (SimpleNamespace(**plain, **info), plain | info, OmegaConf.create(plain | info)):
        assert torch.equal(function(*batch.inputs, config=config)[0], expected)
    sides, _ = function(*batch.inputs, config=SimpleNamespace(clip_ratio=0.1, clip_ratio_low=None))
    both, _ = function(*batch.inputs, config={"clip_ratio_low": 0.1, "clip_ratio_high": 0.1})
    assert torch.equal(sides, both)


@pytest.mark.parametrize("name", NAMES)
def test_defaults(oracle, name):
    defaults = {"clip_ratio_c": 3.0, "tau_pos": 1.0, "tau_neg": 1.05}
    if LOSSES[name].clip is not None:
        defaults |= dict(zip(("clip_ratio_low", "clip_ratio_high"), LOSSES[name].clip, strict=True))
    batch, function = oracle.make_batch(2, drift=1.0), get_policy_loss_fn(name)
    explicit, _ = function(*batch.inputs, config=defaults)
    for config in (None, PolicyLossSettings(), SimpleNamespace()):
        assert torch.equal(function(*batch.inputs, config=config)[0], explicit)


def test_metrics_of_token_losses_count_tokens():
    # Ratios 1, 1.5, 4 and 0.5 with both signs of A; the last token of each row is masked.
    ratios = torch.tensor([[1.0, 1.5, 4.0, 0.5, 9.0]]).expand(2, 5)
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 0]]).expand(2, 5)
    inputs = torch.zeros(2, 5), ratios.log(), advantages, mask
    drift = -sum(map(math.log, [1, 1.5, 4, 0.5])) / 4
    # Clipped: 1.5 and 4 with A > 0, 0.5 with A < 0. The dual clip binds 4 with A < 0.
    expected = {"actor/pg_clipfrac": 3 / 8, "actor/ppo_kl": drift, "actor/pg_clipfrac_lower": 1 / 8}
    assert to_floats(get_policy_loss_fn("vanilla")(*inputs)[1]) == pytest.approx(expected)
    expected = {"actor/pg_clipfrac": 6 / 8, "actor/ppo_kl": drift, "actor/pg_clipfrac_lower": 0}
    assert to_floats(get_policy_loss_fn("cispo")(*inputs, config={"clip_ratio": 0.2})[1]) == pytest.approx(expected)
    expected = {"actor/pg_clipfrac": 0, "actor/ppo_kl": drift, "actor/pg_clipfrac_lower": 0}
    assert to_floats(compute_policy_loss_sapo(*inputs)[1]) == pytest.approx(expected)
    # |log 4| and |log 0.5| lie outside of 0.45, log 1.5 = 0.405 does not.
    expected = {"actor/pg_clipfrac": 2 / 8, "actor/ppo_kl": drift, "actor/pg_clipfrac_lower": 2 / 8}
    metrics = get_policy_loss_fn("geo_mean")(*inputs, config={"clip_ratio": 0.45})[1]
    assert to_floats(metrics) == pytest.approx(expected)


def test_errors_say_what_to_do():
    ones = torch.ones(2, 3)
    vanilla, gspo = map(get_policy_loss_fn, ("vanilla", "gspo"))
    with pytest.raises(ValueError, match=r"^advantages has shape \(2,\), but response_mask has \(2, 3\); give one"):
        gspo(ones, ones, ones[:, 0], ones)
    with pytest.raises(ValueError, match=r"^rollout_is_weights has shape \(1, 3\), but response_mask has \(2, 3\)"):
        gspo(ones, ones, ones, ones, rollout_is_weights=ones[:1])
    with pytest.raises(ValueError, match=r"^clip_ratio_c bounds the ratio from above and must be greater than 1"):
        vanilla(ones, ones, ones, ones, config={"clip_ratio_c": 1})
    with pytest.raises(ValueError, match=r"^tau_pos and tau_neg must be positive, got 0\.0 and 1\.05$"):
        compute_policy_loss_sapo(ones, ones, ones, ones, config={"tau_pos": 0})
    with pytest.raises(ValueError, match=r"^clip_ratio_low=-0\.1 and clip_ratio_high=0\.2 are distances and cannot be"):
        vanilla(ones, ones, ones, ones, config={"clip_ratio_low": -0.1})
    with pytest.raises(ValueError, match=r"^clip_ratio_high is a distance from the ratio 1 and cannot be negative"):
        PolicyLossSettings(clip_ratio_high=-1)
    with pytest.raises(ValueError, match=r"^Invalid loss_agg_mode: mean\. Choose one of"):
        gspo(ones, ones, ones, ones, "mean")
