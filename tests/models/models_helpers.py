"""Tiny random decoders of the supported families, and groups to run through them."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
)

from gspo.groups import Group, Prompt, Response

_SHAPE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: LlamaConfig(**_SHAPE, tie_word_embeddings=True),
    "qwen2": lambda: Qwen2Config(**_SHAPE, tie_word_embeddings=False),
    "qwen3": lambda: Qwen3Config(**_SHAPE, head_dim=16),
    # A window shorter than the sequences, so that it cuts prompts off, and both soft caps.
    "gemma2": lambda: Gemma2Config(**_SHAPE, head_dim=16, sliding_window=6, query_pre_attn_scalar=16),
    "qwen3_moe": lambda: Qwen3MoeConfig(
        **_SHAPE, head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, decoder_sparse_step=1
    ),
}
FAMILIES = list(CONFIGS)


def tiny_model(family: str, dtype: torch.dtype = torch.float64, scale: float = 8.0) -> PreTrainedModel:
    """Random weights, `scale` times the usual size so that attention and logits are far from uniform."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]()).to(dtype).eval()
    if hasattr(model.config, "num_experts"):
        model.set_experts_implementation("eager")  # the grouped product has no float64
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model


def random_groups(seed: int, num_groups: int = 3, max_length: int = 12, vocabulary: int = 61) -> list[Group]:
    """Groups of different sizes, with responses of length 0 and 1 among them."""
    draw = random.Random(seed)

    def tokens(length: int) -> list[int]:
        return [draw.randrange(vocabulary) for _ in range(length)]

    groups = []
    for number in range(num_groups):
        lengths = [draw.randint(2, max_length) for _ in range(draw.randint(1, 4))]
        lengths += [1] if number == 0 else [0, 1] if number == 1 else []
        responses = [Response(tokens(n), [0.0] * n, "", "stop") for n in lengths]
        groups.append(Group(Prompt(f"f:{number}", tuple(tokens(draw.randint(1, 10))), "", "test"), responses))
    return groups
