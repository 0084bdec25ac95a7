import statistics
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gspo.algorithms import (
    compute_grpo_outcome_advantage,
    compute_grpo_passk_outcome_advantage,
    compute_grpo_vectorized_outcome_advantage,
    compute_opo_outcome_advantage,
    compute_reinforce_plus_plus_baseline_outcome_advantage,
    compute_rloo_outcome_advantage,
    group_numbers,
)
from gspo.algorithms.registry import get_adv_estimator_fn
from gspo.methods import ADVANTAGES

LABELS = ["a", "b", "a", "c", "b", "a"]
SCORES = [1.0, -0.5, 0.25, 2.0, 1.5, 0.0]


def index_of(kind):
    numbers = [7, -2, 7, 30, -2, 7]
    return {
        "object strings": np.array(LABELS, dtype=object),
        "strings": np.array(LABELS),
        "integers": np.array(numbers),
        "tuples": np.fromiter(((label, 0) for label in LABELS), dtype=object),
        "mixed": np.array(["a", 2, "a", (3,), 2, "a"], dtype=object),
        "tensor": torch.tensor(numbers),
        "list": LABELS,
    }[kind]


def rewards_of(scores, mask):
    rewards = torch.zeros(mask.shape, dtype=torch.float64)
    rewards[:, 0] = torch.tensor(scores, dtype=torch.float64) - 1
    rewards[:, -1] = 1
    return rewards


def over_tokens(values, mask):
    return torch.tensor(values, dtype=torch.float64)[:, None] * mask


def expected(oracle, name, mask, norm=True, labels=LABELS):
    groups = oracle.by_group(SCORES, labels)
    lengths = mask.sum(dim=-1).tolist()
    values = []
    for i, (score, label) in enumerate(zip(SCORES, labels, strict=True)):
        group = groups[label]
        alone = len(group) == 1
        mean = 0.0 if alone else statistics.mean(group)
        std = 1.0 if alone else statistics.stdev(group)
        if name == "grpo":
            values.append((score - mean) / (std + 1e-6) if norm else score - mean)
        elif name == "rloo":
            others = [SCORES[j] for j in range(6) if labels[j] == label and j != i]
            values.append(score - (statistics.mean(others) if others else 0))
        elif name == "opo":
            members = [j for j in range(6) if labels[j] == label]
            weighted = sum(lengths[j] * SCORES[j] for j in members) / sum(lengths[j] for j in members)
            values.append(score if alone else score - weighted)
        elif name == "passk":
            best, second = sorted(group, reverse=True)[:2]
            values.append((best - second) / (std + 1e-6 if norm else 1) if score == best else 0.0)
    return over_tokens(values, mask)


@pytest.mark.parametrize("kind", ["object strings", "strings", "integers", "tuples", "mixed", "tensor", "list"])
@pytest.mark.parametrize("norm", [True, False])
def test_grpo_is_the_group_standardised_reward(oracle, kind, norm):
    mask = oracle.make_batch().mask
    for function in (compute_grpo_outcome_advantage, compute_grpo_vectorized_outcome_advantage):
        result = function(rewards_of(SCORES, mask), mask, index_of(kind), norm_adv_by_std_in_grpo=norm)
        for tensor in result:
            torch.testing.assert_close(tensor, expected(oracle, "grpo", mask, norm))


@pytest.mark.parametrize(
    ("name", "function"), [("rloo", compute_rloo_outcome_advantage), ("opo", compute_opo_outcome_advantage)]
)
def test_baselines_of_the_other_responses(oracle, name, function):
    mask = oracle.make_batch().mask
    advantages, returns = function(rewards_of(SCORES, mask), mask, index_of("strings"))
    torch.testing.assert_close(advantages, expected(oracle, name, mask))
    torch.testing.assert_close(returns, advantages)


@pytest.mark.parametrize("norm", [True, False])
def test_passk_rewards_the_best_response_of_each_group(oracle, norm):
    labels = ["a", "b", "a", "a", "b", "a"]
    mask = oracle.make_batch().mask
    rewards, index = rewards_of(SCORES, mask), np.array(labels)
    config = {"norm_adv_by_std_in_grpo": norm}
    advantages, _ = compute_grpo_passk_outcome_advantage(rewards, mask, index, config=config)
    torch.testing.assert_close(advantages, expected(oracle, "passk", mask, norm, labels))
    by_argument, _ = compute_grpo_passk_outcome_advantage(rewards, mask, index, norm_adv_by_std_in_grpo=norm)
    assert torch.equal(advantages, by_argument)


def test_passk_needs_two_responses_a_group(oracle):
    mask = oracle.make_batch().mask
    message = r"^Pass@k requires at least 2 samples per group\. Got 1 for group c; set rollout\.n to 2 or more$"
    with pytest.raises(ValueError, match=message):
        compute_grpo_passk_outcome_advantage(rewards_of(SCORES, mask), mask, index_of("strings"))


def test_reinforce_plus_plus_baseline_whitens_the_centred_rewards_over_tokens(oracle):
    mask = oracle.make_batch().mask
    result, _ = compute_reinforce_plus_plus_baseline_outcome_advantage(
        rewards_of(SCORES, mask), mask, index_of("strings"), config=SimpleNamespace()
    )
    centred = expected(oracle, "grpo", mask, norm=False)
    kept = centred[mask.bool()].tolist()
    mean, variance = statistics.mean(kept), statistics.variance(kept)
    torch.testing.assert_close(result, (centred - mean) / (variance + 1e-8) ** 0.5 * mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("function", [compute_grpo_outcome_advantage, compute_rloo_outcome_advantage])
def test_equal_rewards_are_exactly_no_advantage(function, dtype):
    rewards = torch.full((7, 1), 0.1, dtype=dtype)
    advantages, _ = function(rewards, torch.ones(7, 1), np.zeros(7, dtype=int))
    assert torch.equal(advantages, torch.zeros(7, 1, dtype=dtype))


def test_rewards_are_left_as_they_are(oracle):
    mask = oracle.make_batch().mask
    rewards = rewards_of(SCORES, mask).requires_grad_()
    before = rewards.detach().clone()
    advantages, _ = compute_grpo_outcome_advantage(rewards, mask, index_of("strings"))
    assert torch.equal(rewards, before)
    assert not advantages.requires_grad


def test_a_shift_and_a_scale_of_all_rewards_change_nothing(oracle):
    mask = oracle.make_batch().mask
    plain, _ = compute_grpo_outcome_advantage(rewards_of(SCORES[:3] * 2, mask), mask, np.repeat([0, 1], 3), epsilon=0.0)
    moved = [10 + 3 * score for score in SCORES[:3] * 2]
    other, _ = compute_grpo_outcome_advantage(rewards_of(moved, mask), mask, np.repeat([0, 1], 3), epsilon=0.0)
    torch.testing.assert_close(plain, other)


def test_group_numbers_errors():
    with pytest.raises(ValueError, match=r"^index must hold one label a row, got an array of shape \(2, 1\)$"):
        group_numbers(np.zeros((2, 1)))
    with pytest.raises(ValueError, match=r"^index has 2 labels for 3 rows$"):
        compute_grpo_outcome_advantage(torch.ones(3, 1), torch.ones(3, 1), np.zeros(2))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", sorted(set(ADVANTAGES) - {"gae"}))
def test_rewards_of_any_type_give_the_values_of_float32(name, dtype):
    """600 in a group: in bfloat16 a sum of ones stops at 256."""
    index, mask = np.repeat([0, 1], 600), torch.ones(1200, 2)
    rewards = torch.stack([torch.zeros(1200), (torch.arange(1200) % 3 == 0).float()], 1)
    function = get_adv_estimator_fn(name)
    kwargs = {} if name == "reinforce_plus_plus" else {"index": index}
    expected, ours = (function(given, response_mask=mask, **kwargs)[0] for given in (rewards, rewards.to(dtype)))
    assert torch.equal(ours, expected)
