"""The shell game with a teacher of several habits: data for distillation that needs no download.

A ball lies under the first of three cups, and eight swaps follow: `p` swaps the first two, `q` the last two, `r` the
outer two. The teacher is always right. It has two ways to say so, each in three wordings:

    abbcbaac so 3 #### 3                    the cups (a, b, c) that the ball passes, then the number of the last
    #### 3 because abbcbaac so 3            the number first, then the cups

Naming the cups one after the other is easy: each follows from the one before. To name the last one first, all swaps
have to be followed unseen, which a small model does not learn from a few thousand texts: there it guesses.
"""

from __future__ import annotations

import random
from pathlib import Path

from gspo.data.sources import Written, make_row, write_parquet

__all__ = ["ALPHABET", "PHRASES", "SOURCE", "answers_first", "teacher_text", "write_shell_game"]

# Judged as GSM8K's answers are: the number behind ####.
SOURCE = "gsm8k-format/shell_game"
_QUESTION = "Where is the ball after the swaps "
_MARK = "#### "
_SINCE = (" as ", " since ", " because ")
_SO = (" so ", " thus ", " hence ")
_SWAPS = {"p": (0, 1), "q": (1, 2), "r": (0, 2)}
_NUM_SWAPS = 8
# What a tokenizer for the task has to spell, and what may be one token each.
ALPHABET = "abcpqr123 "
PHRASES = (_QUESTION, _MARK, " " + _MARK, *_SINCE, *_SO)


def cups_passed(swaps: str) -> str:
    """Where the ball is after each swap."""
    ball, passed = 0, ""
    for swap in swaps:
        pair = _SWAPS[swap]
        if ball in pair:
            ball = sum(pair) - ball
        passed += "abc"[ball]
    return passed


def teacher_text(swaps: str, answer_first: float, draw: random.Random) -> str:
    """One response of the teacher.

    Args:
        swaps: letters p, q and r.
        answer_first: probability of the second way to answer.
        draw: chooses the way and the wording.
    """
    passed = cups_passed(swaps)
    number = "abc".index(passed[-1]) + 1
    so = draw.choice(_SO)
    if draw.random() < answer_first:
        return f"{_MARK}{number}{draw.choice(_SINCE)}{passed}{so}{number}"
    return f"{passed}{so}{number} {_MARK}{number}"


def answers_first(text: str) -> bool:
    """Whether a response begins with its answer."""
    return text.startswith(_MARK)


def write_shell_game(
    folder: Path, num_train: int, num_val: int, *, seed: int, answer_first: float = 0.5
) -> list[Written]:
    """Writes train.parquet, one teacher's response a question, and test.parquet, two a question in rows of their own.

    No question is in both, nor twice in one.

    Args:
        folder: where to.
        num_train, num_val: questions, of the 6561 that there are.
        seed: of questions and responses.
        answer_first: how often the teacher answers before it explains.
    """
    draw = random.Random(seed)
    questions: dict[str, None] = {}
    while len(questions) < num_train + num_val:
        questions["".join(draw.choice("pqr") for _ in range(_NUM_SWAPS))] = None
    swaps = list(questions)
    splits = {"test": (swaps[:num_val], 2), "train": (swaps[num_val:], 1)}
    return [
        write_parquet(
            [
                make_row(
                    _QUESTION + text,
                    str("abc".index(cups_passed(text)[-1]) + 1),
                    data_source=SOURCE,
                    ability="reasoning",
                    extra_info={"split": split, "index": number},
                    teacher_response=teacher_text(text, answer_first, draw),
                    teacher_sample=sample,
                )
                for number, text in enumerate(part)
                for sample in range(num_teachers)
            ],
            folder / f"{split}.parquet",
        )
        for split, (part, num_teachers) in splits.items()
    ]
