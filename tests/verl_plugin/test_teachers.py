"""A teacher's text ends as the student's responses do, and is cut where they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from gspo.integrations.verl.teachers import TeacherTokens
from gspo.models import Ends


def test_a_text_gets_one_end_of_the_chat_template(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    ends = Ends.of(tokenizer)
    plain = tokenizer("abc", add_special_tokens=False)["input_ids"]
    tokens = TeacherTokens(tokenizer, max_response_length=10)
    assert tokens("abc", "u").tolist() == [*plain, ends.turn]
    assert tokens("abc" + tokenizer.decode([ends.turn]), "u").tolist() == [*plain, ends.turn]


def test_a_text_that_is_too_long_is_cut_and_has_no_end(tiny_model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    plain = tokenizer("abcdef", add_special_tokens=False)["input_ids"]
    assert TeacherTokens(tokenizer, max_response_length=3)("abcdef", "u").tolist() == plain[:3]


@pytest.mark.parametrize("text", [None, "", " \n", 3])
def test_a_prompt_without_a_text_is_named_with_the_remedy(tiny_model_folder: Path, text: object) -> None:
    tokens = TeacherTokens(AutoTokenizer.from_pretrained(tiny_model_folder), 3, key="answer")
    with pytest.raises(ValueError, match=r"prompt u7 has .* column answer.*gspo data teacher.*gad\.teacher_key"):
        tokens(text, "u7")
