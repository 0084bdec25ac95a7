import pytest

from gspo.rewards.gsm8k import final_numbers, score_gsm8k
from gspo.rewards.numerals import spelled


@pytest.mark.parametrize(
    ("text", "flexible", "strict"),
    [
        ("#### 72", ["72"], ["72"]),
        ("####72.", ["72"], ["72"]),
        ("#### 1,000", ["1000"], ["1000"]),
        ("#### $1,234,567.50 in all", ["1234567.5"], ["1234567.5"]),
        ("#### -3", ["-3"], ["-3"]),
        ("#### −3", ["-3"], ["-3"]),
        ("#### -$3", ["-3"], ["-3"]),
        ("#### $-3", ["-3"], ["-3"]),
        ("#### 3/4", ["0.75"], ["0.75"]),
        ("#### 1 1/2", ["1.5"], ["1.5"]),
        ("#### 1\n#### 2", ["2"], ["2"]),
        ("#### 72 and so 5 are left", ["72"], ["72"]),
        ("#### 10 - 3 = 7", ["7"], ["7"]),
        ("#### 17 or 18", [None], [None]),
        ("#### 17-18", [None], [None]),
        ("#### 5 or six", [None], [None]),
        ("#### 5 = 6", [None], [None]),
        ("####\n\n72", ["72"], ["72"]),
        ("#### none, 8", ["8"], []),
        ("The answer is 72.", ["72"], []),
        ("The answer is 72. That took 3 steps.", ["72"], []),
        ("The answer is 17 or 18.", [None], []),
        ("\\boxed{72}. That took 3 steps", ["72"], []),
        ("#### 5, so \\boxed{6}", ["6", "5"], ["5"]),
        ("<answer>72</answer>", ["72"], []),
        ("答案是72。", ["72"], []),
        ("<think>#### 5</think>#### 6", ["6"], ["6"]),
        ("<think>#### 5", [], []),
        ("It is 3/4, thus 0.75", ["0.75"], []),
        ("so 5 + 3 = 8 eggs", ["8"], []),
        ("On day 3, 5 eggs", ["5"], []),
        ("10-3", [None], []),
        ("10 - 3", [None], []),
        ("x = -3", ["-3"], []),
        ("between 1,2 and 3,4", [None], []),
        ("no number", [], []),
        ("", [], []),
    ],
)
def test_final_numbers(text: str, flexible: list[str | None], strict: list[str | None]) -> None:
    for asked, expected in ((False, flexible), (True, strict)):
        read = [None if number is None else spelled(number) for number in final_numbers(text, strict=asked)]
        assert read == expected


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
        ("#### 3/4", "3", 0.0, "0.75"),
        ("#### −3", "-3", 1.0, "-3"),
        ("#### −3", "3", 0.0, "-3"),
        ("#### 50%", "50", 1.0, "50"),
        ("#### 72", "6 * 12 = <<6*12=72>>72\n#### 72", 1.0, "72"),
        ("#### 72", "$72", 1.0, "72"),
        ("#### 72", "72 apples", 1.0, "72"),
        ("72 apples", "72", 1.0, "72"),
    ],
)
def test_score(text: str, truth: str, score: float, answer: str) -> None:
    assert score_gsm8k(text, truth) == {"score": score, "acc": score, "pred": answer}


@pytest.mark.parametrize(
    ("text", "truth"),
    [("#### 17 or 18", "17"), ("17 or 18", "18"), ("#### 5 = 6", "6"), ("", "72"), ("#### " + "9" * 9000, "72")],
)
def test_a_response_without_one_number_has_no_answer(text: str, truth: str) -> None:
    assert score_gsm8k(text, truth) == {"score": 0.0, "acc": 0.0}


def test_two_answers_have_to_agree() -> None:
    assert score_gsm8k("#### 5, so \\boxed{6}", "6")["score"] == 0.0
    assert score_gsm8k("#### 6, so \\boxed{6}", "6")["score"] == 1.0


def test_strict_wants_the_mark() -> None:
    assert score_gsm8k("72", "72", strict=True) == {"score": 0.0, "acc": 0.0}
    assert score_gsm8k("#### 72", "72", strict=True) == {"score": 1.0, "acc": 1.0, "pred": "72"}


@pytest.mark.parametrize("truth", ["", "unknown", "####", "3 or 4", "10:30", "about 5 of 6"])
def test_a_ground_truth_that_is_no_number(truth: str) -> None:
    assert score_gsm8k("72", truth) == {"abstained": f"the ground truth {truth!r} is not a number"}
