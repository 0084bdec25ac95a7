"""The Hugging Face export, loaded back by transformers' own Auto classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from gspo.checkpoint import CheckpointError, export_hf, save_checkpoint

TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"


def tiny_model(tied: bool, dtype: torch.dtype) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(dtype)
    model.generation_config.max_new_tokens = 17
    return model


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(
        models.WordLevel({"<pad>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "<unk>": 5}, unk_token="<unk>")
    )
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_export_loads_back(tmp_path: Path, tied: bool, dtype: torch.dtype) -> None:
    model, tokenizer = tiny_model(tied, dtype), tiny_tokenizer()
    model.config._attn_implementation = "gspo_shared_prefix"
    checkpoint = save_checkpoint(
        tmp_path, 1, tensors={}, state={}, hf_export=lambda path: export_hf(model, tokenizer, path)
    )
    folder = checkpoint / "huggingface"
    assert model.config._attn_implementation == "gspo_shared_prefix"
    assert "gspo_shared_prefix" not in (folder / "config.json").read_text()

    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    expected = model.state_dict()
    assert loaded.dtype is dtype
    assert loaded.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert loaded.generation_config.max_new_tokens == 17
    assert loaded.generation_config.eos_token_id == 2

    words = AutoTokenizer.from_pretrained(folder)
    assert words("a b a")["input_ids"] == tokenizer("a b a")["input_ids"] == [3, 4, 3]
    assert words.eos_token == "</s>"
    assert words.apply_chat_template([{"role": "user", "content": "b"}], tokenize=False) == "b "


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_weights_are_written_in_another_type(tmp_path: Path, tied: bool) -> None:
    model = tiny_model(tied, torch.float32)
    export_hf(model, tiny_tokenizer(), tmp_path, dtype=torch.bfloat16)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="auto")
    assert loaded.dtype is torch.bfloat16
    expected = model.state_dict()
    assert all(torch.equal(tensor, expected[name].bfloat16()) for name, tensor in loaded.state_dict().items())
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    assert model.dtype is torch.float32


def test_private_attention_is_not_written_for_nested_configs(tmp_path: Path) -> None:
    class Saved:
        """Writes a config as a model of text and vision parts might."""

        def save_pretrained(self, path: Path) -> None:
            part = {"_attn_implementation": "gspo_shared_prefix", "hidden_size": 4}
            text = json.dumps({"text_config": part, "attn_implementation": "gspo_shared_prefix", "n": 1})
            (path / "config.json").write_text(text)

    export_hf(Saved(), tiny_tokenizer(), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"text_config": {"hidden_size": 4}, "n": 1}


@pytest.mark.parametrize(
    ("named", "ends", "expected"), [(2, (2,), 2), (2, (1, 2, 5), [2, 1, 5]), ([5, 2], (1,), [5, 2, 1]), (None, (2,), 2)]
)
def test_the_generation_config_names_all_ends(
    tmp_path: Path, named: int | list[int] | None, ends: tuple[int, ...], expected: int | list[int]
) -> None:
    model = tiny_model(False, torch.float32)
    model.generation_config.eos_token_id = named
    export_hf(model, tiny_tokenizer(), tmp_path, end_ids=ends)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == expected
    assert model.generation_config.eos_token_id == named


def test_a_module_that_transformers_cannot_save_is_refused(tmp_path: Path) -> None:
    message = "^a Linear has no save_pretrained; gather and unwrap the transformers model first$"
    with pytest.raises(CheckpointError, match=message):
        export_hf(nn.Linear(1, 1), tiny_tokenizer(), tmp_path)
