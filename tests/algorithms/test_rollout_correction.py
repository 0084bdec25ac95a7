import math
import statistics

import pytest
import torch

from gspo.algorithms import (
    compute_is_metrics,
    compute_offpolicy_metrics,
    compute_rollout_correction_and_rejection_mask,
    compute_rollout_correction_weights,
    compute_rollout_rejection_mask,
    merge_stats,
    to_floats,
)


def log_ratio_of(batch):
    return (batch.log_prob - batch.old_log_prob).detach()


def kept_cells(oracle, mask):
    return [(i, t) for i, row in enumerate(oracle.tokens_of(mask)) for t in row]


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("threshold", [1.5, "1.5", "0.6_1.5"])
def test_weights_and_their_figures(oracle, level, threshold):
    batch = oracle.make_batch(0, drift=0.4)
    ratio = log_ratio_of(batch)
    weights, metrics = compute_rollout_correction_weights(ratio, batch.mask, level, threshold)
    lower = 0.6 if threshold == "0.6_1.5" else None
    raws, expected = {}, torch.zeros_like(ratio)
    for i, row in enumerate(oracle.tokens_of(batch.mask)):
        for t in row:
            raw = math.exp(ratio[i, t] if level == "token" else sum(float(ratio[i, u]) for u in row))
            raws[i, t] = raw
            inside = lower is not None and lower <= raw <= 1.5
            expected[i, t] = min(raw, 1.5) if lower is None else raw * inside
    torch.testing.assert_close(weights, expected)
    used = {cell: float(expected[cell]) for cell in raws}
    rows = [[(i, t) for t in row] for i, row in enumerate(oracle.tokens_of(batch.mask)) if row]
    means, raw_means = ([statistics.mean(of[cell] for cell in row) for row in rows] for of in (used, raws))
    low = 1 / 1.5 if lower is None else lower
    # Of a response whose weights are one number: that number before it is bounded. Else of the tokens' weights.
    ratios, bounds = (raw_means, raw_means) if level == "sequence" else (list(used.values()), list(raws.values()))
    figures = {
        "mean": statistics.mean(used.values()),
        "std": statistics.pstdev(used.values()),
        "max": max(ratios),
        "min": min(ratios),
        "ratio_fraction_high": sum(raw > 1.5 for raw in bounds) / len(bounds),
        "ratio_fraction_low": sum(raw < low for raw in bounds) / len(bounds),
        "eff_sample_size": sum(used.values()) ** 2 / len(used) / sum(w * w for w in used.values()),
        "seq_mean": statistics.mean(means),
        "seq_std": statistics.stdev(means),
        "seq_max": max(means),
        "seq_min": min(means),
        "seq_max_deviation": max(abs(mean - 1) for mean in means),
        "seq_fraction_high": sum(mean > 1.5 for mean in raw_means) / len(means),
        "seq_fraction_low": sum(mean < low for mean in raw_means) / len(means),
        **({} if lower is None else {"oob_ratio": list(used.values()).count(0.0) / len(used)}),
    }
    assert len({len(row) for row in rows}) > 1  # so that a mean over tokens is not one over responses
    expected_metrics = {f"rollout_is_{name}": value for name, value in figures.items()}
    assert to_floats(metrics) == pytest.approx(expected_metrics)
    parts = [
        compute_rollout_correction_weights(ratio[i : i + 2], batch.mask[i : i + 2], level, threshold)[1]
        for i in (0, 2, 4)
    ]
    expected_metrics.pop("rollout_is_eff_sample_size")  # over parts a mean of the parts'
    merged = to_floats(merge_stats(parts))
    assert {name: merged[name] for name in expected_metrics} == pytest.approx(expected_metrics)


def test_the_figures_of_weights_can_be_had_by_themselves(oracle):
    """As verl's function of this name: positional, with the raw weights and the range's ends."""
    batch = oracle.make_batch(1, drift=0.4)
    ratio = log_ratio_of(batch)
    weights, metrics = compute_rollout_correction_weights(ratio, batch.mask, "token", 1.5)
    raw = ratio.exp() * batch.mask
    assert to_floats(compute_is_metrics(weights, raw, ratio, batch.mask, "token", 1.5)) == to_floats(metrics)
    narrow = to_floats(compute_is_metrics(weights, raw, ratio, batch.mask, "token", 1.5, 0.9))
    below = [math.exp(float(ratio[cell])) < 0.9 for cell in kept_cells(oracle, batch.mask)]
    assert narrow["rollout_is_ratio_fraction_low"] == pytest.approx(sum(below) / len(below))


def test_a_responses_ratio_is_bounded_in_its_weight_and_not_in_the_figures_of_it():
    ratio, mask = torch.tensor([[12.0, 12.0], [-30.0, -30.0], [9.0, 9.0]]), torch.tensor([[1, 1], [1, 1], [0, 0]])
    weights, metrics = compute_rollout_correction_weights(ratio, mask, "sequence", 2.0)
    assert weights[0].tolist() == [2.0, 2.0]
    figures = to_floats(metrics)
    assert figures["rollout_is_max"] == pytest.approx(math.exp(20))
    assert figures["rollout_is_min"] == pytest.approx(math.exp(-60), rel=1e-4)
    assert figures["rollout_is_ratio_fraction_high"] == figures["rollout_is_ratio_fraction_low"] == 0.5


def test_weights_of_equal_policies_are_one(oracle):
    mask = oracle.make_batch().mask
    weights, metrics = compute_rollout_correction_weights(torch.zeros(6, 6, requires_grad=True), mask, "sequence")
    assert torch.equal(weights, mask.float())
    assert not weights.requires_grad
    assert float(metrics["rollout_is_eff_sample_size"]) == 1


def accepted(option, threshold, values):
    """Whether a list of log-ratios (a response's, or one token's alone) passes."""
    level, statistic = option.rsplit("_", 1)
    per_token = {
        "k1": [-x for x in values],
        "k2": [x * x / 2 for x in values],
        "k3": [math.exp(x) - 1 - x for x in values],
    }[statistic]
    figure = {"seq_mean": sum(per_token) / len(per_token), "seq_max": max(per_token)}.get(level, sum(per_token))
    if statistic == "k1":
        return math.log(threshold[0]) <= figure <= math.log(threshold[1])
    return figure <= threshold


@pytest.mark.parametrize(
    ("option", "given", "threshold"),
    [
        ("token_k1", "0.8_1.5", (0.8, 1.5)),
        ("token_k1", 1.25, (0.8, 1.25)),
        ("token_k2", 0.05, 0.05),
        ("token_k3", "0.05", 0.05),
        ("seq_sum_k1", "0.8_1.5", (0.8, 1.5)),
        ("seq_sum_k2", 0.3, 0.3),
        ("seq_sum_k3", 0.3, 0.3),
        ("seq_mean_k1", "0.9_1.2", (0.9, 1.2)),
        ("seq_mean_k2", 0.05, 0.05),
        ("seq_mean_k3", 0.05, 0.05),
        ("seq_max_k2", 0.2, 0.2),
        ("seq_max_k3", 0.2, 0.2),
    ],
)
def test_rejection_takes_out_what_differs_too_much(oracle, option, given, threshold):
    batch = oracle.make_batch(0, drift=0.4)
    ratio = log_ratio_of(batch)
    mask, metrics = compute_rollout_rejection_mask(ratio, batch.mask, option, given)
    expected = torch.zeros_like(batch.mask)
    for i, row in enumerate(oracle.tokens_of(batch.mask)):
        for t in row:
            values = [float(ratio[i, u]) for u in (row if option.startswith("seq") else [t])]
            expected[i, t] = int(accepted(option, threshold, values))
    assert torch.equal(mask, expected)
    lost = batch.mask - expected
    assert 0 < lost.sum() < batch.mask.sum()
    fraction = float(lost.sum() / batch.mask.sum())
    seq_fraction = float(lost.any(dim=-1).sum() / batch.mask.any(dim=-1).sum())
    names = {"masked_fraction": fraction, "seq_masked_fraction": seq_fraction}
    prefixes = ("rollout_rs", f"rollout_rs_{option}")
    fractions = {name: value for name, value in to_floats(metrics).items() if name.endswith("masked_fraction")}
    assert fractions == pytest.approx({f"{p}_{name}": v for p in prefixes for name, v in names.items()})


def test_several_options_must_all_accept(oracle):
    batch = oracle.make_batch(3, drift=0.4)
    ratio = log_ratio_of(batch)
    both, _ = compute_rollout_rejection_mask(ratio, batch.mask, "token_k1, seq_max_k2", "0.8_1.5, 0.2")
    one, _ = compute_rollout_rejection_mask(ratio, batch.mask, "token_k1", "0.8_1.5")
    other, _ = compute_rollout_rejection_mask(ratio, batch.mask, "seq_max_k2", 0.2)
    assert torch.equal(both, one * other)


def test_drift_figures(oracle):
    batch = oracle.make_batch(4, drift=0.3)
    train, rollout, mask = batch.log_prob.detach(), batch.old_log_prob, batch.mask
    cells = kept_cells(oracle, mask)
    rows = [(i, row) for i, row in enumerate(oracle.tokens_of(mask)) if row]
    x = [float(train[cell] - rollout[cell]) for cell in cells]
    sums = [sum(float(train[i, t] - rollout[i, t]) for t in row) for i, row in rows]
    nll = [-sum(float(train[i, t]) for t in row) / len(row) for i, row in rows]
    rollout_nll = [-sum(float(rollout[i, t]) for t in row) / len(row) for i, row in rows]
    gaps = [a - b for a, b in zip(nll, rollout_nll, strict=True)]

    def mean(values):
        return sum(values) / len(values)

    expected = {
        "kl": -mean(x),
        "k3_kl": mean([math.exp(v) - v - 1 for v in x]),
        "chi2_token": mean([math.exp(2 * v) - 1 for v in x]),
        "chi2_seq": mean([math.exp(2 * v) - 1 for v in sums]),
        "training_ppl": mean([math.exp(v) for v in nll]),
        "training_log_ppl": mean(nll),
        "rollout_ppl": mean([math.exp(v) for v in rollout_nll]),
        "rollout_log_ppl": mean(rollout_nll),
        "ppl_ratio": mean([math.exp(v) for v in gaps]),
        "log_ppl_diff": mean(gaps),
        "log_ppl_abs_diff": mean([abs(v) for v in gaps]),
        "log_ppl_diff_max": max(gaps),
        "log_ppl_diff_min": min(gaps),
    }
    assert to_floats(compute_offpolicy_metrics(train, rollout, mask)) == pytest.approx(expected)
    parts = [compute_offpolicy_metrics(train[i : i + 2], rollout[i : i + 2], mask[i : i + 2]) for i in (0, 2, 4)]
    assert to_floats(merge_stats(parts)) == pytest.approx(expected)


def test_all_at_once(oracle):
    batch = oracle.make_batch(5, drift=0.4)
    inputs = batch.log_prob, batch.old_log_prob, batch.mask
    ratio = log_ratio_of(batch)
    weights, is_metrics = compute_rollout_correction_weights(ratio, batch.mask, "token", 2.0)
    mask, rs_metrics = compute_rollout_rejection_mask(ratio, batch.mask, "token_k1", "0.5_2.0")
    drift = compute_offpolicy_metrics(*inputs)
    result = compute_rollout_correction_and_rejection_mask(
        *inputs, rollout_is="token", rollout_rs="token_k1", rollout_rs_threshold="0.5_2.0"
    )
    assert torch.equal(result[0], weights)
    assert torch.equal(result[1], mask)
    expected = {f"rollout_corr/{name}": value for name, value in to_floats(drift | is_metrics | rs_metrics).items()}
    assert to_floats(result[2]) == expected
    off = compute_rollout_correction_and_rejection_mask(*inputs)
    assert off[0] is None
    assert off[1] is batch.mask
    assert sorted(off[2]) == sorted(f"rollout_corr/{name}" for name in drift)


def test_errors_say_what_to_do():
    ratio, mask = torch.zeros(1, 2), torch.ones(1, 2)
    with pytest.raises(ValueError, match=r"^unknown rollout_is 'group'; choose 'token' or 'sequence'$"):
        compute_rollout_correction_weights(ratio, mask, "group")
    for threshold in (0, -1.0, "a", "2_1", "1_2_3", "nan", True, ""):
        with pytest.raises(ValueError, match=r"^rollout_is_threshold must be a positive number or 'lower_upper'"):
            compute_rollout_correction_weights(ratio, mask, "token", threshold)
    with pytest.raises(ValueError, match=r"^unknown rollout_rs option 'seq_max_k1'; choose of \['token_k1', "):
        compute_rollout_rejection_mask(ratio, mask, "seq_max_k1", 2.0)
    with pytest.raises(ValueError, match=r"^rollout_rs_threshold of token_k2 is one number, .* got '0\.5_2'$"):
        compute_rollout_rejection_mask(ratio, mask, "token_k2", "0.5_2")
    with pytest.raises(ValueError, match=r"^rollout_rs has 1 options, but rollout_rs_threshold 2 values$"):
        compute_rollout_rejection_mask(ratio, mask, "token_k2", "1,2")
    with pytest.raises(ValueError, match=r"^rollout_rs=token_k1 needs rollout_rs_threshold, such as"):
        compute_rollout_correction_and_rejection_mask(ratio, ratio, mask, rollout_rs="token_k1")
    with pytest.raises(ValueError, match=r"^rollout_log_prob has shape \(1, 1\), but response_mask \(1, 2\)$"):
        compute_rollout_correction_and_rejection_mask(ratio, ratio[:, :1], mask)


def rejection_oracle(each, rows, low, high, of_responses):
    """The figures of a statistic, from its value at each token and a list of each response's tokens."""
    means = [statistics.mean(each[cell] for cell in row) for row in rows]
    own = means if of_responses else list(each.values())
    lowest = -math.inf if low is None else low
    bounded = [min(max(value, 0.0 if low is None else low), high) for value in each.values()]
    return {
        "mean": statistics.mean(each.values()),
        "std": statistics.pstdev(bounded),
        "max": max(own),
        "min": min(own),
        "fraction_high": sum(value > high for value in own) / len(own),
        "fraction_low": sum(value < lowest for value in own) / len(own),
        "seq_mean": statistics.mean(means),
        "seq_std": statistics.stdev(means),
        "seq_max": max(means),
        "seq_min": min(means),
        "seq_max_deviation": max(abs(mean) for mean in means),
        "seq_fraction_high": sum(mean > high for mean in means) / len(means),
        **({} if low is None else {"seq_fraction_low": sum(mean < low for mean in means) / len(means)}),
    }


def test_the_figures_of_what_rejects(oracle):
    batch = oracle.make_batch(2, drift=0.6)
    ratio, mask = log_ratio_of(batch), batch.mask
    rows = [[(i, t) for t in row] for i, row in enumerate(oracle.tokens_of(mask)) if row]
    _, metrics = compute_rollout_rejection_mask(ratio, mask, "token_k2,seq_sum_k1", "0.05,0.8_1.5")
    squares = {cell: float(ratio[cell]) ** 2 / 2 for row in rows for cell in row}
    sums = {cell: -sum(float(ratio[other]) for other in row) for row in rows for cell in row}
    expected = {
        "token_k2": rejection_oracle(squares, rows, None, 0.05, of_responses=False),
        "seq_sum_k1": rejection_oracle(sums, rows, math.log(0.8), math.log(1.5), of_responses=True),
    }
    names = {f"rollout_rs_{option}_{name}": value for option, of in expected.items() for name, value in of.items()}
    assert {name: value for name, value in to_floats(metrics).items() if "masked" not in name} == pytest.approx(names)
    assert 0 < names["rollout_rs_seq_sum_k1_fraction_low"] + names["rollout_rs_seq_sum_k1_fraction_high"] < 1
    cuts = (slice(0, 3), slice(3, 6))
    parts = [compute_rollout_rejection_mask(ratio[c], mask[c], "token_k2,seq_sum_k1", "0.05,0.8_1.5")[1] for c in cuts]
    merged = to_floats(merge_stats(parts))
    assert {name: merged[name] for name in names} == pytest.approx(names)


def test_without_the_engines_log_probs_the_trainers_perplexity_is_known():
    old, mask = -torch.rand(3, 4), torch.ones(3, 4)
    figures, both = compute_offpolicy_metrics(old, None, mask), compute_offpolicy_metrics(old, old, mask)
    assert sorted(figures) == ["training_log_ppl", "training_ppl"]
    assert all(float(figures[name]) == float(both[name]) for name in figures)
