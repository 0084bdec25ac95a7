import pytest

from gspo.rewards.format import THINK_ANSWER, score_format
from gspo.rewards.length import overlong_penalty


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("<think>a\nb</think>\n<answer>c</answer>", 1.0),
        ("  <think></think><answer></answer>\n", 1.0),
        ("<answer>c</answer>", 0.0),
        ("<think>a</think><answer>c</answer> and more", 0.0),
        ("", 0.0),
    ],
)
def test_format(text: str, score: float) -> None:
    assert score_format(text, THINK_ANSWER) == score


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("a\nb</think>\n<answer>c</answer>", 1.0),
        ("<think>a</think><answer>c</answer>", 1.0),
        ("a</think> c", 0.0),
        ("<answer>c</answer>", 0.0),
    ],
)
def test_format_where_the_prompt_opened_the_thoughts(text: str, score: float) -> None:
    assert score_format(text, THINK_ANSWER, opened=True) == score
    assert score_format("abc", "[a-z]+", opened=True) == 1.0


@pytest.mark.parametrize(("length", "penalty"), [(0, 0.0), (80, 0.0), (85, -0.5), (90, -1.0), (100, -2.0), (130, -2.0)])
def test_overlong_penalty_is_dapos(length: int, penalty: float) -> None:
    # eq. 13 with L_max = 100 and L_cache = 20: ((100 - 20) - length) / 20 between 80 and 100, here times 2.
    assert overlong_penalty(length, max_length=100, buffer=20, factor=2.0) == penalty
