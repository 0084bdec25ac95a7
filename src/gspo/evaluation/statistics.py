"""Statistics of an evaluation: pass@k, maj@k and how sure one may be of a mean. Numbers in, numbers out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from statistics import NormalDist

import numpy as np

__all__ = ["bootstrap_interval", "maj_at_k", "pass_at_k", "wilson_interval"]


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """The unbiased estimate of the chance that at least one of k samples is correct, from n >= k samples.

    1 - C(n - c, k) / C(n, k), Chen et al. 2021 (arXiv 2107.03374), equation 1. Whole numbers are exact and their
    quotient is correctly rounded, so nothing cancels however large n is.

    Raises:
        ValueError: not 1 <= k <= num_samples, or not 0 <= num_correct <= num_samples.
    """
    _check_k(k, num_samples)
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"num_correct is {num_correct}; with {num_samples} samples give 0 to {num_samples}")
    ways = math.comb(num_samples, k)
    return (ways - math.comb(num_samples - num_correct, k)) / ways


def maj_at_k(answers: Sequence[Hashable | None], correct: Sequence[bool], k: int) -> float:
    """The expected correctness of the majority vote over the first k answers.

    Equal answers are votes for one another; None (no answer found in the response) is not a vote. The winner is drawn
    from the answers with most votes, each alike, and is as correct as the share of its own votes that were judged
    correct (0 or 1 where the judge is consistent). Without any vote the result is 0.

    Args:
        answers: the extracted answer of each response, in the order of sampling.
        correct: whether each was judged correct.

    Raises:
        ValueError: the two have different lengths, or not 1 <= k <= their length.
    """
    if len(answers) != len(correct):
        raise ValueError(f"there are {len(answers)} answers and {len(correct)} judgements; give one for each")
    _check_k(k, len(answers))
    votes: Counter[Hashable] = Counter()
    correct_votes: Counter[Hashable] = Counter()
    for answer, is_correct in zip(answers[:k], correct[:k], strict=True):
        if answer is not None:
            votes[answer] += 1
            correct_votes[answer] += bool(is_correct)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = [answer for answer, count in votes.items() if count == most]
    return sum(correct_votes[answer] for answer in winners) / (most * len(winners))


def wilson_interval(num_successes: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927): (low, high) within [0, 1].

    It is for independent trials: one response for each prompt. For several responses of the same prompts use
    `bootstrap_interval` over the prompts' means.

    Raises:
        ValueError: no trial, not 0 <= num_successes <= num_trials, or confidence not between 0 and 1.
    """
    if num_trials < 1:
        raise ValueError(f"num_trials is {num_trials}; an interval needs at least 1 trial")
    if not 0 <= num_successes <= num_trials:
        raise ValueError(f"num_successes is {num_successes}; with {num_trials} trials give 0 to {num_trials}")
    _check_confidence(confidence)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = num_successes / num_trials
    scale = 1 + z**2 / num_trials
    centre = (share + z**2 / (2 * num_trials)) / scale
    half = z * math.sqrt(share * (1 - share) / num_trials + z**2 / (4 * num_trials**2)) / scale
    # At the ends the bound is exactly 0 or 1; rounding must not move it.
    low = 0.0 if num_successes == 0 else centre - half
    high = 1.0 if num_successes == num_trials else centre + half
    return low, high


def bootstrap_interval(
    values: Sequence[float], confidence: float = 0.95, *, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The percentile bootstrap interval of a mean over prompts (Efron 1979): (low, high).

    Prompts are drawn with replacement, so the responses of one prompt stay together. The draws depend on `seed` only.

    Args:
        values: one figure for each prompt, such as the mean score of its responses.

    Raises:
        ValueError: no value, a value that is not finite, num_resamples below 1, or confidence not between 0 and 1.
    """
    figures = np.asarray(values, dtype=np.float64)
    if figures.ndim != 1 or not len(figures):
        raise ValueError("values must be a list of at least one figure, one for each prompt")
    if not np.isfinite(figures).all():
        first = int(np.flatnonzero(~np.isfinite(figures))[0])
        raise ValueError(f"values[{first}] is {figures[first]}; leave out prompts without a finite figure")
    if num_resamples < 1:
        raise ValueError(f"num_resamples is {num_resamples}; draw at least 1")
    _check_confidence(confidence)
    generator = np.random.default_rng(seed)
    means = [figures[generator.integers(len(figures), size=len(figures))].mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _check_k(k: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k is {k} with {num_samples} samples; choose k from 1 to {num_samples} or sample more")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a share between 0 and 1, such as 0.95")
