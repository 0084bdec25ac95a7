"""The table of model families: a few of each outcome, put through everything that the command does."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("family", "outcome", "why"),
    [
        ("llama", "works", ""),
        ("gemma2", "works", ""),
        ("gemma3n_text", "works", ""),
        ("olmo", "works", ""),
        ("olmo2", "works", ""),
        ("olmo3", "works", ""),
        ("olmoe", "works", ""),
        ("diffllama", "works", ""),
        ("deepseek_v3", "works", ""),
        ("qwen3_moe", "works", ""),
        ("gpt_oss", "refused", "attention sinks"),
        ("stablelm", "refused", "attention interface"),
        ("qwen3_next", "refused", "attention interface"),
        ("bert", "refused", "tokens behind it"),
        ("fuyu", "no tiny model", ""),
    ],
)
def test_what_becomes_of_a_family(family: str, outcome: str, why: str) -> None:
    from families import judge

    verdict = judge(family)
    assert verdict.outcome == outcome, verdict
    assert why in verdict.why


def test_the_table_is_markdown() -> None:
    from families import Verdict, table

    text = table([Verdict("a", "AForCausalLM", "works"), Verdict("b", "B", "refused", "x | y")])
    assert text.splitlines()[2:] == ["| `a` | AForCausalLM | works |  |", "| `b` | B | refused | x / y |"]
