"""The shell game's teacher is right, writes what it is said to, and never repeats a question."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pyarrow.parquet as pq

from gspo.data.shell_game import answers_first, cups_passed, teacher_text, write_shell_game
from gspo.rewards.gsm8k import score_gsm8k


def shuffled(swaps: str) -> str:
    """The same by moving three things about: where the first of them stands after each swap."""
    cups, passed = ["ball", "", ""], ""
    for swap in swaps:
        i, j = {"p": (0, 1), "q": (1, 2), "r": (0, 2)}[swap]
        cups[i], cups[j] = cups[j], cups[i]
        passed += "abc"[cups.index("ball")]
    return passed


def test_the_ball_is_followed() -> None:
    draw = random.Random(0)
    for _ in range(50):
        swaps = "".join(draw.choice("pqr") for _ in range(8))
        assert cups_passed(swaps) == shuffled(swaps)


def test_both_ways_to_answer() -> None:
    draw = random.Random(0)
    explained = {teacher_text("pqrp", 0, draw) for _ in range(40)}
    assert explained == {f"bcab {so} 2 #### 2" for so in ("so", "thus", "hence")}
    answered = {teacher_text("pqrp", 1, draw) for _ in range(200)}
    assert answered == {
        f"#### 2 {since} bcab {so} 2" for since in ("as", "since", "because") for so in ("so", "thus", "hence")
    }
    assert not any(map(answers_first, explained))
    assert all(map(answers_first, answered))


def test_the_files(tmp_path: Path) -> None:
    write_shell_game(tmp_path, 300, 40, seed=3)
    train, test = (pq.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("train", "test"))
    asked = {name: [row["prompt"][0]["content"] for row in rows] for name, rows in (("train", train), ("test", test))}
    assert (len(train), len(test)) == (300, 80)
    assert (len(set(asked["train"])), len(set(asked["test"]))) == (300, 40)
    assert not set(asked["train"]) & set(asked["test"])
    assert [row["teacher_sample"] for row in test[:4]] == [0, 1, 0, 1]
    assert asked["test"][0] == asked["test"][1]
    for row in train + test:
        assert re.fullmatch(r"Where is the ball after the swaps [pqr]{8}", row["prompt"][0]["content"])
        assert score_gsm8k(row["teacher_response"], row["reward_model"]["ground_truth"], strict=True)["acc"] == 1
    share = sum(answers_first(row["teacher_response"]) for row in train) / 300
    assert abs(share - 0.5) < 0.1
    write_shell_game(tmp_path / "again", 300, 40, seed=3)
    assert pq.read_table(tmp_path / "again" / "train.parquet").to_pylist() == train
