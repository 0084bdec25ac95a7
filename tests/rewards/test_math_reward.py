import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from gspo.rewards.limits import TooLarge, time_limit
from gspo.rewards.math import score_math


@pytest.mark.parametrize(
    ("truth", "right", "wrong", "answers"),
    [
        ("72", "The answer is 72", "The answer is 71", ("72", "71")),
        ("72", "not 5, but \\boxed{72}. So 72, not 5.", "72, or rather \\boxed{71}", ("72", "71")),
        ("1000", "so \\boxed{1,000}", "so \\boxed{1,00}", ("1000", "{0, 1}")),
        ("-3", "it is $-3$", "it is $3$", ("-3", "3")),
        ("1/2", "\\boxed{0.5}", "\\boxed{2}", ("0.5", "2")),
        ("\\frac{1}{2}", "\\boxed{\\frac{2}{4}}", "\\boxed{\\frac{2}{1}}", ("0.5", "2")),
        ("2\\sqrt{3}", "$\\sqrt{12}$", "\\boxed{2}", ("2*sqrt(3)", "2")),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", "\\boxed{x^2+1}", ("x**2 + 2*x + 1", "x**2 + 1")),
        ("(1,2)", "\\boxed{(1, 2)}", "\\boxed{(2, 1)}", ("Interval.open(1, 2)", "(2, 1)")),
        ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", "\\boxed{\\{1,3\\}}", ("{1, 2}", "{1, 3}")),
        ("\\text{(A)}", "\\boxed{A}", "\\boxed{B}", ("a", "b")),
        ("$\\pi$", "\\boxed{\\pi}", "\\boxed{3.14}", ("pi", "3.14")),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}",
            "$\\begin{pmatrix}1\\\\2\\end{pmatrix}$",
            "\\boxed{1}",
            ("Matrix([[1], [2]])", "1"),
        ),
        ("50\\%", "$50\\%$", "\\boxed{5}", ("50", "5")),
    ],
)
def test_equal_and_unequal_answers(truth: str, right: str, wrong: str, answers: tuple[str, str]) -> None:
    assert score_math(right, truth) == {"score": 1.0, "acc": 1.0, "pred": answers[0]}
    assert score_math(wrong, truth) == {"score": 0.0, "acc": 0.0, "pred": answers[1]}


@pytest.mark.parametrize("text", ["", "I do not know.", "\\boxed{}"])
def test_no_answer_is_wrong(text: str) -> None:
    assert score_math(text, "72") == {"score": 0.0, "acc": 0.0}


@pytest.mark.parametrize(
    "truth", ["", "$", "\\boxed{}", "\\frac{1}{", "1}", "9" * 500, "(" * 30 + "1" + ")" * 30, "2^{9^{9^9}}"]
)
def test_a_ground_truth_that_cannot_be_read(truth: str) -> None:
    message = f"the ground truth {truth!r} is not an answer that can be read"
    assert score_math("\\boxed{72}", truth) == {"abstained": message}


def test_equal_answers_have_one_vote() -> None:
    for text in ("\\sqrt{12}", "2\\sqrt{3}", "2√3", "12^{1/2}"):
        assert score_math(f"\\boxed{{{text}}}", "2\\sqrt{3}")["pred"] == "2*sqrt(3)"


COSTLY = {
    "a tower of powers": "9^{9^{9^{9}}}",
    "a tower in few braces": "9^9^9^9",
    "a power of ten of a power": "10^{10^{10}}",
    "a power of a power": "(10^{9999})^{9999}",
    "a huge exponent": "2^{10000000000}",
    "a huge exponent of a name": "(x+1)^{100000}",
    "a product as an exponent": "7^{9999 \\cdot 9999}",
    "a factorial": "1000000!",
    "a factorial of a power": "(10^9)!",
    "a factorial of a factorial": "(99!)!",
    "a binomial coefficient": "\\binom{10000000}{5000000}",
    "brackets": "(" * 5000 + "1" + ")" * 5000,
    "braces": "{" * 5000 + "1" + "}" * 5000,
    "roots": "\\sqrt{" * 500 + "2" + "}" * 500,
    "signs": "-" * 20000 + "1",
    "digits": "7" * 100000,
    "a long sum": "+".join(["x^2"] * 3000),
    "an expansion": "(a+b+c+d+e+f)^{60}(a-b)^{40}",
    "a sum of many terms": "\\sum_{n=1}^{100000000} \\frac{1}{n^3+1}",
    "an integral": "\\int_0^1 \\frac{\\sin(x^3+x)}{\\ln(x+2)+\\cos(x^2)} dx",
    "a product": "\\prod_{n=1}^{9999999} (n+x)",
    "trigonometry": "\\sin(\\cos(\\tan(x^7+x+1)))^{9}+\\cos(\\sin(x)+x^3)^8\\tan(x)^7",
}


@pytest.mark.parametrize("answer", COSTLY.values(), ids=COSTLY)
@pytest.mark.parametrize("gold", ["72", "2\\sqrt{3}+x"])
def test_a_costly_answer_is_wrong_at_once(answer: str, gold: str) -> None:
    before = time.process_time()
    score = score_math(f"so \\boxed{{{answer}}}", gold)
    assert score["score"] == 0.0
    assert time.process_time() - before < 1.0


@pytest.mark.parametrize(
    "text",
    ["\\boxed{" * 20000, "<answer>" * 20000, "$" * 20000, "\\(" * 20000, "answer " + " " * 100000, "#### " * 20000],
)
def test_a_long_response_is_read_in_little_time(text: str) -> None:
    before = time.process_time()
    assert score_math(text, "72")["score"] == 0.0
    assert time.process_time() - before < 1.0


def _compute_for_ever() -> None:
    """Drops what is raised in it, once: the limit is set again."""
    with suppress(BaseException):
        while True:
            pass
    while True:
        pass


def test_a_computation_is_ended() -> None:
    with pytest.raises(TooLarge, match=r"more than 0\.1 s"), time_limit(0.1):
        _compute_for_ever()
    before = time.process_time()
    while time.process_time() - before < 0.2:
        pass  # nothing is left of the limit


@pytest.mark.parametrize("error", [MemoryError, RecursionError, OverflowError])
def test_running_out_is_too_large(error: type[Exception]) -> None:
    with pytest.raises(TooLarge, match=error.__name__), time_limit():
        raise error


def test_there_is_no_limit_outside_of_the_main_thread() -> None:
    with ThreadPoolExecutor(1) as threads:
        assert threads.submit(score_math, "\\boxed{\\sqrt{12}}", "2\\sqrt{3}").result()["score"] == 1.0


def test_a_hedge_in_words() -> None:
    assert score_math("\\boxed{5 or six}", "5")["score"] == 0.0
    assert score_math("The answer is 5 or six.", "5")["score"] == 0.0
