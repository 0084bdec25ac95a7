"""Overlap of texts against plain loops written from the definitions."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from rouge_score.rouge_scorer import RougeScorer

from gspo.evaluation.overlap import ngram_f1, overlap, rouge_l, tokenise


def lcs_by_table(first: Sequence[str], second: Sequence[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first, start=1):
        for j, b in enumerate(second, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if a == b else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]


def shared_by_striking_out(first: Sequence[str], second: Sequence[str], n: int) -> tuple[int, int, int]:
    """n-grams of the first, of the second, and those of the first that find a partner not yet taken."""
    ours = [list(first[i : i + n]) for i in range(len(first) - n + 1)]
    theirs = [list(second[i : i + n]) for i in range(len(second) - n + 1)]
    left, shared = list(theirs), 0
    for gram in ours:
        if gram in left:
            left.remove(gram)
            shared += 1
    return len(ours), len(theirs), shared


def random_pairs() -> list[tuple[list[str], list[str]]]:
    draw = random.Random(1)
    sizes = [(1, 1), (1, 9), (5, 7), (12, 3), (40, 40), (90, 70)]
    return [([draw.choice("abc") for _ in range(a)], [draw.choice("abcd") for _ in range(b)]) for a, b in sizes * 5]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The cat's 2 hats.", ["the", "cat", "'", "s", "2", "hats", "."]),
        ("3*4=12", ["3", "*", "4", "=", "12"]),
        ("  snake_case\n\tÉTÉ ", ["snake_case", "été"]),
        ("日本 is かな。", ["日", "本", "is", "か", "な", "。"]),
        (" \n", []),
    ],
)
def test_tokens(text: str, tokens: list[str]) -> None:
    assert tokenise(text) == tokens


def test_rouge_l_is_the_f1_of_precision_and_recall_of_the_longest_common_subsequence() -> None:
    for first, second in random_pairs():
        common = lcs_by_table(first, second)
        precision, recall = common / len(first), common / len(second)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
        assert rouge_l(first, second) == pytest.approx(expected, abs=1e-12)
        assert rouge_l(second, first) == rouge_l(first, second)


def test_rouge_l_of_the_paper_s_example() -> None:
    """Lin 2004, section 3: the longest common subsequences with the reference are 3 and 2 tokens of 4."""
    reference = ["police", "killed", "the", "gunman"]
    assert rouge_l(["police", "kill", "the", "gunman"], reference) == 0.75
    assert rouge_l(["the", "gunman", "kill", "police"], reference) == 0.5


def test_ngram_f1_counts_each_ngram_once() -> None:
    for first, second in random_pairs():
        for n in range(1, 7):
            ours, theirs, shared = shared_by_striking_out(first, second, n)
            expected = 2 * shared / (ours + theirs) if ours + theirs else None
            assert ngram_f1(first, second, n) == expected


def test_a_repeated_word_does_not_score_twice() -> None:
    assert ngram_f1(["a"] * 9, ["a"], 1) == 2 * 1 / (9 + 1)


def test_identical_texts_score_1_and_what_is_too_short_has_no_figure() -> None:
    assert overlap("One two, three", "one TWO, three") == {
        "rouge_l": 1.0,
        "ngram_1_f1": 1.0,
        "ngram_2_f1": 1.0,
        "ngram_3_f1": 1.0,
        "ngram_4_f1": 1.0,
    }
    assert overlap("", " ") == {}
    assert overlap("", "a b", max_n=3) == {"rouge_l": 0.0, "ngram_1_f1": 0.0, "ngram_2_f1": 0.0}


def test_n_below_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^n is 0; an n-gram has at least 1 token$"):
        ngram_f1(["a"], ["a"], 0)
    with pytest.raises(ValueError, match=r"^max_n is 0; an n-gram has at least 1 token$"):
        overlap("a", "a", max_n=0)


class _OurTokens:
    """This project's tokens in rouge-score, whose own tokeniser keeps ASCII letters and digits alone."""

    def tokenize(self, text: str) -> list[str]:
        return tokenise(text)


_WORDS = ["The", "cat", "sat", "on", "the", "mat", ",", "3*4=12", "naïve", "日本", "snake_case", "cat's"]


@pytest.mark.parametrize("seed", range(20))
def test_figures_are_those_of_rouge_score(seed: int) -> None:
    """Google's implementation (rouge-score), over random texts: its F-measures, to the last bits of the arithmetic."""
    draw = random.Random(seed)
    ours, theirs = (" ".join(draw.choices(_WORDS, k=draw.randint(6, 60))) for _ in range(2))
    kinds = {"rougeL": "rouge_l", **{f"rouge{n}": f"ngram_{n}_f1" for n in range(1, 7)}}
    scores = RougeScorer(list(kinds), tokenizer=_OurTokens()).score(target=theirs, prediction=ours)
    found = overlap(ours, theirs)
    assert found.keys() == set(kinds.values())
    for kind, name in kinds.items():
        assert found[name] == pytest.approx(scores[kind].fmeasure, rel=1e-12, abs=1e-15)


def test_plain_words_have_the_figures_of_rouge_score_as_it_comes() -> None:
    texts = "the quick brown fox jumps over the lazy dog", "The lazy dog sleeps while the quick fox jumps"
    scores = RougeScorer(["rouge1", "rouge2", "rougeL"]).score(target=texts[1], prediction=texts[0])
    found = overlap(*texts, max_n=2)
    assert [found["ngram_1_f1"], found["ngram_2_f1"], found["rouge_l"]] == pytest.approx(
        [score.fmeasure for score in scores.values()], rel=1e-12
    )
