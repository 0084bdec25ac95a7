"""Statistics of an evaluation, against enumeration of every case."""

from __future__ import annotations

import itertools
import math
import re
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from gspo.evaluation.statistics import bootstrap_interval, maj_at_k, pass_at_k, wilson_interval


def exactly(message: str) -> str:
    return f"^{re.escape(message)}$"


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_sample(num_samples: int) -> None:
    for num_correct in range(num_samples + 1):
        correct = [index < num_correct for index in range(num_samples)]
        for k in range(1, num_samples + 1):
            subsets = list(itertools.combinations(correct, k))
            assert pass_at_k(num_samples, num_correct, k) == float(Fraction(sum(map(any, subsets)), len(subsets)))


def test_pass_at_k_is_unbiased() -> None:
    chance, num_samples, k = Fraction(1, 3), 6, 3
    expected = sum(
        math.comb(num_samples, c)
        * chance**c
        * (1 - chance) ** (num_samples - c)
        * Fraction(pass_at_k(num_samples, c, k))
        for c in range(num_samples + 1)
    )
    assert float(expected) == pytest.approx(float(1 - (1 - chance) ** k), rel=1e-14)


def test_pass_at_k_does_not_cancel_or_overflow() -> None:
    assert pass_at_k(10**6, 1, 1) == 1e-6
    assert pass_at_k(20_000, 1, 10_000) == 0.5
    exact = 1 - math.prod(1 - Fraction(50, n) for n in range(10_000 - 3 + 1, 10_000 + 1))
    assert pass_at_k(10_000, 3, 50) == float(exact)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 5), "k is 5 with 4 samples; choose k from 1 to 4 or sample more"),
        ((4, 2, 0), "k is 0 with 4 samples; choose k from 1 to 4 or sample more"),
        ((4, 5, 2), "num_correct is 5; with 4 samples give 0 to 4"),
    ],
)
def test_pass_at_k_refuses(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        pass_at_k(*arguments)


def expected_vote(answers: list[str | None], right: str) -> Fraction:
    """Every order in which ties could be broken, one winner for each permutation of the distinct answers."""
    orders = list(itertools.permutations(sorted({answer for answer in answers if answer is not None})))
    wins = [max(order, key=lambda answer: answers.count(answer)) == right for order in orders if order]
    return Fraction(sum(wins), len(orders)) if wins else Fraction(0)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_maj_at_k_over_every_vote(k: int) -> None:
    for answers in itertools.product(["a", "b", "c", None], repeat=5):
        correct = [answer == "a" for answer in answers]
        assert maj_at_k(answers, correct, k) == pytest.approx(float(expected_vote(list(answers[:k]), "a")), abs=1e-15)


def test_maj_at_k_without_a_vote_is_zero_even_if_judged_correct() -> None:
    assert maj_at_k([None, None], [True, False], 2) == 0.0


def test_maj_at_k_with_an_inconsistent_judge_takes_the_share_of_the_votes() -> None:
    assert maj_at_k(["x", "x", "x", "x", "y"], [True, False, False, False, True], 5) == 0.25


def test_maj_at_k_refuses_unequal_lengths() -> None:
    with pytest.raises(ValueError, match=exactly("there are 2 answers and 1 judgements; give one for each")):
        maj_at_k(["a", "b"], [True], 1)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (3, 10), (10, 10), (421, 1319)])
def test_wilson_bounds_solve_the_score_equation(successes: int, trials: int) -> None:
    z = 1.959963984540054  # the 0.975 quantile of the normal distribution
    share = successes / trials
    for bound in wilson_interval(successes, trials):
        assert (share - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / trials, rel=1e-9, abs=1e-15)
    low, high = wilson_interval(successes, trials)
    assert low < high
    assert low <= share <= high


def test_wilson_confidence_widens() -> None:
    narrow, wide = wilson_interval(5, 20, 0.5), wilson_interval(5, 20, 0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "num_trials is 0; an interval needs at least 1 trial"),
        ((3, 2), "num_successes is 3; with 2 trials give 0 to 2"),
        ((1, 2, 95.0), "confidence is 95.0; give a share between 0 and 1, such as 0.95"),
    ],
)
def test_wilson_refuses(arguments: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        wilson_interval(*arguments)


def test_bootstrap_is_the_enumerated_distribution() -> None:
    values = [0.0, 0.25, 1.0]
    means = sorted(np.mean(draw) for draw in itertools.product(values, repeat=3))
    # The 27 equally likely resamples: the 0.1 and 0.9 quantiles of a large bootstrap are their third and 25th.
    low, high = bootstrap_interval(values, 0.8, num_resamples=20_000)
    assert (low, high) == (pytest.approx(means[2]), pytest.approx(means[24]))
    assert bootstrap_interval(values, 0.8, num_resamples=20_000) == (low, high)


def test_bootstrap_of_equal_values_has_no_width() -> None:
    assert bootstrap_interval([0.5] * 4, num_resamples=10) == (0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "values must be a list of at least one figure, one for each prompt"),
        ([1.0, math.nan], "values[1] is nan; leave out prompts without a finite figure"),
    ],
)
def test_bootstrap_refuses(values: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=exactly(message)):
        bootstrap_interval(values)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 1), (3, 10), (10, 10), (421, 1319), (50_000, 100_000)])
def test_wilson_is_scipy_s(successes: int, trials: int, confidence: float) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    found = wilson_interval(successes, trials, confidence)
    assert found == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_the_bootstrap_is_scipy_s_percentile_interval(confidence: float) -> None:
    """Draws differ, so that both are within the noise of 20,000 resamples of the same distribution."""
    values = np.random.default_rng(3).beta(0.5, 0.5, size=60)
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        confidence_level=confidence,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(4),
    ).confidence_interval
    found = bootstrap_interval(values.tolist(), confidence, num_resamples=20_000, seed=5)
    error = values.std() / math.sqrt(len(values))
    assert found == (pytest.approx(theirs.low, abs=0.05 * error), pytest.approx(theirs.high, abs=0.05 * error))
