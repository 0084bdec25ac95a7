"""What a judge makes of pairs who sees their lengths and ends only."""

from __future__ import annotations

import pytest
import torch

from gspo.algorithms.stats import to_floats
from gspo.groups import Group, Prompt, Response
from gspo.trainer.gad.pairs import overlap_metrics, pair_accuracy, pair_metrics, teacher_metrics

END = 9


def response(length: int, ended: bool) -> Response:
    tokens = [1] * (length - 1) + [END if ended else 1] if length else []
    return Response(tokens, [0.0] * length, "", "stop" if ended else "length")


def group(teacher: Response | None, *students: Response) -> Group:
    return Group(Prompt("f:0", (1,), "", ""), list(students), teacher)


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        ([1, 1, 1, 1], [2, 2, 2, 0], 0.75),
        ([2, 2, 2, 0], [1, 1, 1, 1], 0.75),  # the other direction tells as much
        ([1, 1], [1, 1], 0.5),
        ([1, 1], [2, 1], 0.75),  # a tie is half
        ([1, 2], [2, 1], 0.5),
    ],
)
def test_one_number_as_a_judge(student: list[int], teacher: list[int], expected: float) -> None:
    assert float(pair_accuracy(torch.tensor(student), torch.tensor(teacher))) == expected


def test_length_and_end_over_all_pairs() -> None:
    groups = [
        group(response(5, True), response(3, True), response(5, False)),  # longer; tie, and ended
        group(response(4, True), response(8, False), response(0, False)),  # shorter, and ended; longer, and ended
        group(None, response(99, False)),
    ]
    assert to_floats(pair_metrics(groups, END)) == {
        "critic/length_acc": (1 + 0.5 + 0 + 1) / 4,
        "critic/eos_acc": (0.5 + 1 + 1 + 1) / 4,
    }
    assert set(pair_metrics(groups, END, prefix="x")) == {"x/length_acc", "x/eos_acc"}
    assert pair_metrics(groups[2:], END) == {}


def test_the_teachers_lengths() -> None:
    groups = [group(response(5, True), response(3, True)), group(response(8, False)), group(None, response(1, True))]
    assert to_floats(teacher_metrics(groups)) == {
        "teacher_length/mean": 6.5,
        "teacher_length/max": 8,
        "teacher_length/min": 5,
        "teacher_length/clip_ratio": 0.5,
    }
    assert teacher_metrics(groups[2:]) == {}


def test_what_the_texts_share() -> None:
    def said(text: str) -> Response:
        return Response([1], [0.0], text, "stop")

    groups = [group(said("a b c"), said("a b c"), said("x c")), group(said("d"), said("d")), group(None, said("e"))]
    found = to_floats(overlap_metrics(groups, "v"))
    # Longest common subsequences of 3 of 3 and 3, 1 of 2 and 3, 1 of 1 and 1 tokens.
    assert found["v/rouge_l"] == pytest.approx((1 + 2 / 5 + 1) / 3)
    assert found["v/ngram_2_f1"] == pytest.approx((1 + 0) / 2)  # the pair of single words has none
    assert set(found) == {"v/rouge_l", "v/ngram_1_f1", "v/ngram_2_f1", "v/ngram_3_f1"}
