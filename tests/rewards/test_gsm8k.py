from decimal import Decimal

import pytest

from gspo.rewards.gsm8k import final_number, score_gsm8k


@pytest.mark.parametrize(
    ("text", "flexible", "strict"),
    [
        ("#### 72", "72", "72"),
        ("####72.", "72", "72"),
        ("#### 1,000", "1000", "1000"),
        ("#### $1,234,567.50 in all", "1234567.50", "1234567.50"),
        ("#### -3", "-3", "-3"),
        ("#### -$3", "-3", "-3"),
        ("#### $-3", "-3", "-3"),
        ("#### 1\n#### 2", "2", "2"),
        ("#### 72 and so 5 are left", "72", "72"),
        ("####\n\n72", "72", "72"),
        ("#### none, 8", "8", None),
        ("The answer is 72.", "72", None),
        ("It is 3/4, thus 0.75", "0.75", None),
        ("10-3", "3", None),
        ("(4)-3", "3", None),
        ("10 - 3", "3", None),
        ("x = -3", "-3", None),
        ("between 1,2 and 3,4", "4", None),
        ("1234,567", "567", None),
        ("no number", None, None),
        ("", None, None),
    ],
)
def test_final_number(text: str, flexible: str | None, strict: str | None) -> None:
    assert final_number(text) == (None if flexible is None else Decimal(flexible))
    assert final_number(text, strict=True) == (None if strict is None else Decimal(strict))


@pytest.mark.parametrize(
    ("text", "truth", "score", "answer"),
    [
        ("#### 72", "72", 1.0, "72"),
        ("#### 72.0", "72", 1.0, "72"),
        ("#### 72", "72.00", 1.0, "72"),
        ("#### 1000", "1,000", 1.0, "1000"),
        ("#### $1,000.50", "1,000.5", 1.0, "1000.5"),
        ("#### 720", "72", 0.0, "720"),
        ("#### -72", "72", 0.0, "-72"),
        ("72 apples", "72", 1.0, "72"),
    ],
)
def test_score(text: str, truth: str, score: float, answer: str) -> None:
    assert score_gsm8k(text, truth) == {"score": score, "acc": score, "pred": answer}


def test_a_response_without_a_number_has_no_answer() -> None:
    assert score_gsm8k("", "72") == {"score": 0.0, "acc": 0.0}


def test_strict_wants_the_mark() -> None:
    assert score_gsm8k("72", "72", strict=True) == {"score": 0.0, "acc": 0.0}
    assert score_gsm8k("#### 72", "72", strict=True) == {"score": 1.0, "acc": 1.0, "pred": "72"}


@pytest.mark.parametrize("truth", ["", "unknown", "####"])
def test_a_ground_truth_that_is_no_number(truth: str) -> None:
    assert score_gsm8k("72", truth) == {"abstained": f"the ground truth {truth!r} is not a number"}
