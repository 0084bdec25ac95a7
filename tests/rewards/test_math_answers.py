"""Several hundred pairs of a ground truth and a response, with the right verdict, math-verify's and MATH's own.

`math_answers.jsonl` has `score`, what is right; `math_verify` and `is_equiv`, what those two say; and where one of them
differs, `why` the table decides so. `docs/rewards.md` gives the counts.
"""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from math_equivalence import math_equal
from math_verify import parse, verify
from messages import names

from gspo.rewards.math import score_math

ROWS: list[dict[str, Any]] = [
    json.loads(line) for line in Path(__file__).with_name("math_answers.jsonl").read_text("utf-8").splitlines()
]


@pytest.fixture
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def test_the_verdicts() -> None:
    wrong = [row for row in ROWS if score_math(row["response"], row["gold"]).get("score") != row["score"]]
    assert wrong == []
    assert len({(row["gold"], row["response"]) for row in ROWS}) == len(ROWS) > 400


def test_every_ground_truth_scores_1_against_itself() -> None:
    golds = {row["gold"] for row in ROWS}
    for form in ("so \\boxed{%s}.", "<answer>%s</answer>", "The answer is $%s$."):
        assert [gold for gold in golds if score_math(form % gold, gold).get("score") != 1] == []


@pytest.mark.usefixtures("quiet")
def test_the_verdicts_of_math_verify() -> None:
    def says(gold: str, response: str) -> int:
        truth = parse(gold if "$" in gold.replace(r"\$", "") else f"${gold}$", parsing_timeout=None)
        return int(verify(truth, parse(response, parsing_timeout=None), timeout_seconds=None))

    differ = [row for row in ROWS if says(row["gold"], row["response"]) != row["math_verify"]]
    assert differ == []


def test_the_verdicts_of_maths_own_equivalence() -> None:
    assert [row for row in ROWS if math_equal(row["response"], row["gold"]) != row["is_equiv"]] == []


def test_each_disagreement_has_its_reason() -> None:
    for row in ROWS:
        assert (row["score"] == row["math_verify"] == row["is_equiv"]) == ("why" not in row), row


def test_the_counts_in_the_pages() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "rewards.md").read_text("utf-8")
    (line,) = [line for line in page.splitlines() if "`tests/rewards/math_answers.jsonl`" in line]
    verify_agrees, equiv_agrees = (
        sum(row["score"] == row[other] for row in ROWS) for other in ("math_verify", "is_equiv")
    )
    assert names(line, f"{len(ROWS)} pairs", f"{verify_agrees} with math-verify's", f"{equiv_agrees} with MATH's")
