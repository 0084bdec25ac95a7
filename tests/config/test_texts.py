"""Texts that cannot be encoded, and values that nothing recursive could read."""

from __future__ import annotations

from typing import Any

import pytest
from messages import names

from gspo.config.texts import MOST_LEVELS, text_problem


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [None, 3, 2.5, "plain", "caf\u00e9 \U0001f600", [{"a": ["b", None]}], {"k": ("x",)}])
def test_whole_texts_have_no_problem(value: Any) -> None:
    assert text_problem(value, "x") is None


def test_half_a_pair_is_named_with_its_place() -> None:
    value = [{"role": "user", "content": "fine"}, {"content": "caf\u00e9 \ud83d"}]
    assert names(text_problem(value, "prompt"), "prompt[1].content", "\\ud83d", "character 5")
    assert names(text_problem({"\udc00": 1}, "extra_info"), "a key of extra_info", "\\udc00")


def test_nul_is_refused_where_it_is_asked_for() -> None:
    assert names(text_problem("a\0", "answer"), "answer", "NUL")
    assert text_problem("a\0", "answer", nul=False) is None


def test_depth_is_bounded_for_any_depth_and_for_values_that_hold_themselves() -> None:
    assert text_problem(nested(MOST_LEVELS - 1), "x") is None
    itself: list[Any] = []
    itself.append(itself)
    for value in (nested(MOST_LEVELS), nested(100_000), itself):
        assert names(text_problem(value, "x"), "x ", str(MOST_LEVELS), "flatter")
