"""Token draws against the distributions they are drawn from, and truncation against a loop over the vocabulary."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from gspo.rollout import SamplingParams
from gspo.rollout.local.sampling import response_key, sample_tokens, uniforms


def truncated(probs: list[float], sampling: SamplingParams) -> list[float]:
    """The distribution that top-k, top-p and min-p leave, token by token."""
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    if sampling.top_k > 0:
        order = order[: sampling.top_k]
    total, kept, mass = sum(probs[i] for i in order), [], 0.0
    for i in order:
        if mass >= sampling.top_p * total:
            break
        kept.append(i)
        mass += probs[i]
    kept = [i for i in kept if probs[i] >= sampling.min_p * probs[order[0]]]
    mass = sum(probs[i] for i in kept)
    return [probs[i] / mass if i in kept else 0.0 for i in range(len(probs))]


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingParams(1),
        SamplingParams(1, temperature=0.5),
        SamplingParams(1, top_k=3),
        SamplingParams(1, top_p=0.7),
        SamplingParams(1, min_p=0.2),
        SamplingParams(1, temperature=1.3, top_k=6, top_p=0.8, min_p=0.1),
    ],
)
def test_draws_follow_the_truncated_distribution(sampling: SamplingParams) -> None:
    logits = torch.tensor([2.0, 1.0, 0.3, -0.5, 1.7, -3.0, 0.9, 0.0])
    scaled = (logits.double() / sampling.temperature).softmax(0)
    expected = truncated(scaled.tolist(), sampling)
    count = 20_000
    draws = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), 0))
    tokens, log_probs, entropies = sample_tokens(logits.repeat(count, 1), draws, sampling)
    observed = torch.bincount(tokens, minlength=8) / count
    for token in range(8):
        spread = math.sqrt(expected[token] * (1 - expected[token]) / count)
        assert abs(float(observed[token]) - expected[token]) <= 4 * spread
    torch.testing.assert_close(log_probs, scaled.log()[tokens].float(), atol=1e-5, rtol=1e-5)
    entropy = -sum(p * math.log(p) for p in scaled.tolist())  # before truncation, as the log-probabilities
    assert entropies.tolist() == pytest.approx([entropy] * count, rel=1e-5)


@pytest.mark.parametrize("vocabulary", [300, 512, 5000])
def test_a_large_vocabulary_is_drawn_from_as_its_distribution_function_says(vocabulary: int) -> None:
    logits = 3 * torch.randn(vocabulary, generator=torch.Generator().manual_seed(0))
    count = 2000
    draws = torch.from_numpy(uniforms(np.arange(count, dtype=np.uint64), 0))
    tokens, _, _ = sample_tokens(logits.repeat(count, 1), draws, SamplingParams(1))
    above = logits.double().softmax(0).cumsum(0)
    below = above - logits.double().softmax(0)
    # Rounding in float32 moves a token's end by no more than this.
    assert bool((below[tokens] <= draws + 1e-6).all())
    assert bool((above[tokens] >= draws - 1e-6).all())
    assert len(tokens.unique()) > 40


def test_no_draw_from_a_large_vocabulary_takes_a_token_that_was_left_out() -> None:
    logits = torch.zeros(1000)
    kept = [255, 256, 700, 999]
    logits[kept] = 2.0
    draws = torch.tensor([2.0**-49, 0.25, 0.25 + 1e-9, 0.5, 0.75 - 1e-9, 0.75, 1 - 2.0**-48], dtype=torch.float64)
    tokens, _, _ = sample_tokens(logits.repeat(len(draws), 1), draws, SamplingParams(1, top_k=4))
    assert set(tokens.tolist()) <= set(kept)
    assert tokens[0] == 255
    assert tokens[-1] == 999


def test_temperature_zero_takes_the_likeliest_token_with_its_log_prob_at_temperature_one() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [5.0, 4.0, 4.0]])
    tokens, log_probs, entropies = sample_tokens(
        logits.clone(), torch.tensor([0.99, 0.99]), SamplingParams(1, temperature=0)
    )
    assert tokens.tolist() == [1, 0]
    torch.testing.assert_close(log_probs, logits.log_softmax(-1)[[0, 1], [1, 0]])
    expected = [-sum(p * math.log(p) for p in row) for row in logits.softmax(-1).tolist()]
    assert entropies.tolist() == pytest.approx(expected, rel=1e-5)


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.tensor([float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")])
    edges = torch.tensor([0.5 / 2**48, 0.5 - 2**-40, 0.5 + 2**-40, 1 - 0.5 / 2**48], dtype=torch.float64)
    tokens, _, _ = sample_tokens(logits.repeat(4, 1), edges, SamplingParams(1))
    assert tokens.tolist() == [1, 1, 3, 3]


def test_uniforms_are_uniform_and_uncorrelated_over_keys_and_positions() -> None:
    keys = np.array([response_key(1, 2, f"f:{row}", i) for row in range(500) for i in range(4)], dtype=np.uint64)
    table = np.stack([uniforms(keys, position) for position in range(50)])
    assert 0 < table.min() < table.max() < 1
    counts = np.histogram(table, bins=20, range=(0, 1))[0]
    expected = table.size / 20
    assert ((counts - expected) ** 2 / expected).sum() < 43.8  # chi-square, 19 degrees of freedom, p = 0.001
    assert np.abs(np.corrcoef(table)[np.triu_indices(50, 1)]).max() < 0.12


def test_keys_depend_on_every_part() -> None:
    parts = [
        (1, 2, "f:0", 3),
        (2, 2, "f:0", 3),
        (1, 3, "f:0", 3),
        (1, 2, "f:1", 3),
        (1, 2, "f:0", 4),
        (1, 22, "f:0", 3),
    ]
    assert len({response_key(*part) for part in parts}) == len(parts)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", 0, "max_tokens is 0; it must be at least 1"),
        ("temperature", -0.1, "temperature is -0.1; it must be 0"),
        ("top_p", 0.0, "top_p is 0.0; it must be in"),
        ("top_k", 0, "top_k is 0; it must be -1"),
        ("min_p", 1.5, "min_p is 1.5; it must be in"),
        ("stop", ("",), "stop is .*; it must be texts that are not empty"),
    ],
)
def test_impossible_settings_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(**{"max_tokens": 5, name: value})


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_refused(temperature: float) -> None:
    logits = torch.tensor([[0.0, 1.0], [math.nan, 1.0]])
    with pytest.raises(ValueError, match="probabilities that are NaN or infinite: training has diverged"):
        sample_tokens(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), SamplingParams(1, temperature=temperature))


def test_rows_at_positions_of_their_own_draw_what_they_would_together() -> None:
    keys = np.array([response_key(1, 2, "f:0", index) for index in range(4)], dtype=np.uint64)
    positions = np.array([0, 7, 3, 2**20])
    expected = [uniforms(keys, int(position))[row] for row, position in enumerate(positions)]
    assert uniforms(keys, positions).tolist() == expected
