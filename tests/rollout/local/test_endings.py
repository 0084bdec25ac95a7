"""Where a response ends and what its text is, token by token against what was written."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from gspo.models.scratch import character_tokenizer
from gspo.rollout import SamplingParams
from gspo.rollout.local.endings import Endings
from gspo.rollout.local.samples import Rows


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    made = character_tokenizer()
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in ("<|call|>", "<|call|>>")])
    made.add_tokens([AddedToken("</tool>", special=False, normalized=False)])
    return made


@pytest.mark.parametrize(
    ("stop", "written", "sampled", "text"),
    [
        ("<|call|>", "ab<|call|>cd", "ab<|call|>", "ab"),
        ("b<|call|>", "ab<|call|>cd", "ab<|call|>", "a"),
        ("<|call|>c", "ab<|call|>dx<|call|>cd", "ab<|call|>dx<|call|>c", "abdx"),
        ("x<|call|>", "ab<|call|>cd", None, "abcd"),
        ("<|call|>>", "ab<|call|>cd<|call|>>e", "ab<|call|>cd<|call|>>", "abcd"),
        ("</tool>", "ab</tool>cd", "ab</tool>", "ab"),
        ("<eos>", "ab<eos>", "ab<eos>", "ab"),
        ("<pad>", "ab<pad>c", "ab<pad>", "ab"),
        ("bc", "abcd", "abc", "a"),
    ],
)
def test_a_stop_text_ends_a_response(
    stop: str, written: str, sampled: str | None, text: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    sampling = SamplingParams(100, stop=(stop,), ignore_eos=True)
    endings = Endings(tokenizer, torch.tensor([tokenizer.eos_token_id]), sampling)
    token_ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    rows = Rows.start(torch.tensor([0]), endings.tail, torch.device("cpu"))
    length = None
    for number, token in enumerate(token_ids, 1):
        rows.append(torch.tensor([token]))
        if bool(endings.ended(rows)):
            length = number
            break
    expected = None if sampled is None else len(tokenizer(sampled, add_special_tokens=False)["input_ids"])
    assert length == expected
    response = endings.response(token_ids[:length], [0.0] * len(token_ids[:length]), 0.5)
    assert (response.text, response.finish_reason) == (text, "length" if sampled is None else "stop")


def test_an_end_token_that_is_a_plain_one_is_not_in_the_text(tokenizer: PreTrainedTokenizerBase) -> None:
    end = tokenizer.convert_tokens_to_ids("</tool>")
    endings = Endings(tokenizer, torch.tensor([end]), SamplingParams(10))
    token_ids = tokenizer("ab</tool>", add_special_tokens=False)["input_ids"]
    response = endings.response(token_ids, [0.0] * 3, 0.5)
    assert (response.text, response.finish_reason, response.token_ids) == ("ab", "stop", token_ids)
