"""Small models from scratch, for runs that need no download: a character tokenizer and a Llama of a given size."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

__all__ = ["character_tokenizer", "make_model_folder"]

# A prompt is its messages' texts, then a line end behind which the answer starts.
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['content'] }}{% endfor %}{{ '\\n' if add_generation_prompt else '' }}"
)


def character_tokenizer(characters: str = string.printable, phrases: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """A tokenizer with one token a character, and `<pad>`, `<bos>`, `<eos>` and `<unk>` before them.

    Args:
        characters: what it can spell.
        phrases: longer texts that are one token each, such as the words that open every prompt of a task.
    """
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {token: number for number, token in enumerate([*special, *dict.fromkeys([*characters, *phrases])])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    pieces = [re.escape(phrase) for phrase in sorted(phrases, key=len, reverse=True)]
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("|".join([*pieces, r"[\s\S]"])), "isolated")
    tokenizer.decoder = decoders.Fuse()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )
    wrapped.chat_template = _CHAT_TEMPLATE
    return wrapped


def make_model_folder(
    folder: Path,
    *,
    hidden_size: int = 128,
    num_layers: int = 4,
    num_heads: int = 4,
    characters: str = string.printable,
    phrases: Sequence[str] = (),
    max_positions: int = 1024,
    seed: int = 0,
) -> Path:
    """Writes a randomly initialised Llama with a character tokenizer as a Hugging Face folder.

    Args:
        folder: where to.
        hidden_size, num_layers, num_heads: shape of the model; the feed-forward is 8/3 as wide as the hidden size.
        characters, phrases: what the tokenizer can spell; see `character_tokenizer`.
        max_positions: longest prompt and response together.
        seed: of the weights.

    Returns:
        the folder.
    """
    tokenizer = character_tokenizer(characters, phrases)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=-(-8 * hidden_size // 3 // 16) * 16,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        max_position_embeddings=max_positions,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
