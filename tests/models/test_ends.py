"""Which tokens end a response, by the chat templates that released models have."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from models_helpers import tiny_model
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from gspo.models import Ends, end_token_ids
from gspo.models.ends import turn_end_id
from gspo.models.scratch import character_tokenizer
from gspo.trainer.supervised import answer_response

_GEMMA = (
    "{{ bos_token }}{% for message in messages %}<start_of_turn>"
    "{{ 'model' if message['role'] == 'assistant' else 'user' }}\n"
    "{{ message['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PHI = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
_LLAMA_2 = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<s>[INST] {{ message['content'] }} [/INST]"
    "{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)
_OPEN = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}{% if true %}<|assistant|>{% endif %}"
_NO_ANSWERS = "{{ raise_exception('no assistant here') }}"


def tokenizer_with(template: str | None, *special: str) -> PreTrainedTokenizerBase:
    tokenizer = character_tokenizer()
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (_GEMMA, "<end_of_turn>"),
        (_PHI, "<|end|>"),
        (_LLAMA_2, "<eos>"),
        (_OPEN, "<eos>"),  # closes no message; what opens the next one is no end
        (_NO_ANSWERS, "<eos>"),
        (None, "<eos>"),
    ],
)
def test_the_end_is_the_chat_templates(template: str | None, end: str) -> None:
    special = ("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>", "<s>")
    tokenizer = tokenizer_with(template, *special)
    assert tokenizer.convert_ids_to_tokens(turn_end_id(tokenizer)) == end
    ids = {tokenizer.eos_token_id, turn_end_id(tokenizer)}
    assert set(Ends.of(tokenizer).ids) == ids
    model = tiny_model("llama")
    model.generation_config.eos_token_id = [2, 7]
    assert set(end_token_ids(model, tokenizer)) == ids | {7, 2}


@pytest.mark.parametrize("written", ["", "<end_of_turn>", "<eos>", "<end_of_turn>\n", "<end_of_turn>\n<eos>"])
def test_a_text_ends_once_as_the_model_does(written: str) -> None:
    tokenizer = tokenizer_with(_GEMMA, "<start_of_turn>", "<end_of_turn>")
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    response = answer_response(f"an answer{written}", tokenizer, 40)
    assert response.token_ids == [*tokenizer("an answer", add_special_tokens=False)["input_ids"], end]
    assert (response.text, response.finish_reason) == ("an answer", "stop")


def test_ends_of_the_generation_config_are_not_ended_twice() -> None:
    tokenizer = tokenizer_with(_GEMMA, "<start_of_turn>", "<end_of_turn>", "<|done|>")
    model = tiny_model("llama")
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("<|done|>")
    ends = Ends.of(tokenizer, model)
    assert ends.tokens("so<|done|>", tokenizer) == ends.tokens("so", tokenizer)
    assert ends.without("so \n") == "so \n"  # white space that no end stands behind is the text's own
    nameless = SimpleNamespace(generation_config=None)
    assert Ends.of(tokenizer, nameless) == Ends.of(tokenizer)  # type: ignore[arg-type]
