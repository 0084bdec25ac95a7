"""How much a text shares with a reference: ROUGE-L and n-gram F1. Texts in, numbers out.

Tokens: the text is case-folded; a token is a run of letters, digits and underscores, or one other visible character
(so "3*4=12." is five tokens and a full stop). Chinese and Japanese characters, which are written without spaces, are
a token each. There is no stemming. Figures of other tokenisations are not comparable with these.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["ngram_f1", "overlap", "rouge_l", "tokenise"]

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # kana and Han characters
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")


def tokenise(text: str) -> list[str]:
    """The tokens of a text, as the module's head defines them."""
    return _TOKEN.findall(text.casefold())


def rouge_l(candidate: Sequence[str], reference: Sequence[str]) -> float | None:
    """ROUGE-L's F1 = 2 LCS / (|candidate| + |reference|) over two lists of tokens.

    LCS is the length of the longest common subsequence (Lin 2004, "ROUGE: A Package for Automatic Evaluation of
    Summaries", equations 2 to 4 with beta = 1). Two empty lists have no F1: None.
    """
    total = len(candidate) + len(reference)
    return 2 * _longest_common_subsequence(candidate, reference) / total if total else None


def ngram_f1(candidate: Sequence[str], reference: Sequence[str], n: int) -> float | None:
    """F1 of the n-grams of two lists of tokens: 2 shared / (those of the candidate + those of the reference).

    An n-gram that occurs several times is shared as often as it occurs in both. Where both lists have fewer than n
    tokens there is nothing to compare: None.

    Raises:
        ValueError: n is below 1.
    """
    if n < 1:
        raise ValueError(f"n is {n}; an n-gram has at least 1 token")
    ours, theirs = _ngrams(candidate, n), _ngrams(reference, n)
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else None


def overlap(candidate: str, reference: str, max_n: int = 6) -> dict[str, float]:
    """`rouge_l` and `ngram_1_f1` to `ngram_<max_n>_f1` of two texts, without those that have no value.

    Raises:
        ValueError: max_n is below 1.
    """
    if max_n < 1:
        raise ValueError(f"max_n is {max_n}; an n-gram has at least 1 token")
    ours, theirs = tokenise(candidate), tokenise(reference)
    figures = {"rouge_l": rouge_l(ours, theirs)}
    figures |= {f"ngram_{n}_f1": ngram_f1(ours, theirs, n) for n in range(1, max_n + 1)}
    return {name: figure for name, figure in figures.items() if figure is not None}


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1))


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Its length. A row of the usual table is one whole number, a bit a column (Crochemore et al. 2001).

    A zero at bit j says that the length grows at column j. That is some hundred times the speed of a loop over both.
    """
    places: dict[str, int] = {}
    for column, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << column
    everything = (1 << len(first)) - 1
    row = everything
    for token in second:
        matches = row & places.get(token, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(first) - row.bit_count()
