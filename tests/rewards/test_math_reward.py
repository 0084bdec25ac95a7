import pytest

from gspo.rewards.math import score_math


@pytest.mark.parametrize(
    ("truth", "right", "wrong", "answers"),
    [
        ("72", "The answer is 72", "The answer is 71", ("72", "71")),
        ("72", "not 5, but \\boxed{72}. So 72, not 5.", "72, or rather \\boxed{71}", ("72", "71")),
        ("1000", "so \\boxed{1,000}", "so \\boxed{1,00}", ("1000", "{0, 1}")),
        ("-3", "it is $-3$", "it is $3$", ("-3", "3")),
        ("1/2", "\\boxed{0.5}", "\\boxed{2}", ("1/2", "2")),
        ("\\frac{1}{2}", "\\boxed{\\frac{2}{4}}", "\\boxed{\\frac{2}{1}}", ("1/2", "2")),
        ("2\\sqrt{3}", "$\\sqrt{12}$", "\\boxed{2}", ("sqrt(12)", "2")),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", "\\boxed{x^2+1}", ("(x + 1)**2", "x**2 + 1")),
        ("(1,2)", "\\boxed{(1, 2)}", "\\boxed{(2, 1)}", ("Interval.open(1, 2)", "(2, 1)")),
        ("\\{1,2\\}", "\\boxed{\\{2,1\\}}", "\\boxed{\\{1,3\\}}", ("{1, 2}", "{1, 3}")),
        ("\\text{(A)}", "\\boxed{A}", "\\boxed{B}", ("a", "b")),
        ("$\\pi$", "\\boxed{\\pi}", "\\boxed{3.14}", ("pi", "3.14000000000000")),
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


@pytest.mark.parametrize("truth", ["", "$", "\\boxed{}"])
def test_a_ground_truth_that_does_not_parse(truth: str) -> None:
    message = f"the ground truth {truth!r} is not an expression that math-verify can read"
    assert score_math("\\boxed{72}", truth) == {"abstained": message}
