"""The check on load: what it compares, at which lengths, and what it says of a model that it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from messages import names
from models_helpers import CONFIGS, tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    DeepseekV3Config,
    DiffLlamaConfig,
    GptOssConfig,
    LlamaConfig,
    MistralConfig,
    OlmoConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3NextConfig,
)

from gspo.config.schema import ModelConfig
from gspo.models import Policy, load_policy, verify_packed_forward
from gspo.models.checking import checked_length
from gspo.models.limits import require_length
from gspo.models.preparing import randomness
from gspo.models.scratch import character_tokenizer
from gspo.rollout import EngineContext, make_engine
from gspo.rollout.local.checking import verify_sampling

SHAPE: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8,
    "v_head_dim": 12, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
    "moe_intermediate_size": 24, "first_k_dense_replace": 1,
}  # fmt: skip


def made(config: PreTrainedConfig, scale: float = 8.0) -> PreTrainedModel:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(scale)
    return model


def loaded(model: PreTrainedModel, longest: int = 40, **settings: Any) -> Policy:
    section = replace(ModelConfig(), **settings)
    return load_policy(section, character_tokenizer("abc"), "cpu", longest, model=model)


@pytest.mark.parametrize(
    "config",
    [
        DeepseekV3Config(**{**SHAPE, **LATENT}),  # values of another size than keys
        DeepseekV3Config(**{**SHAPE, **LATENT, "v_head_dim": 24}),
        DiffLlamaConfig(**SHAPE),  # attention twice in a layer
        OlmoConfig(**SHAPE, clip_qkv=0.5),  # changes a product in place
        MistralConfig(**SHAPE, sliding_window=12),
    ],
    ids=lambda config: f"{config.model_type}-{getattr(config, 'v_head_dim', 0)}",
)
@pytest.mark.parametrize("fused", [True, False])
def test_unusual_attention_is_trained_and_sampled_as_it_is(config: PreTrainedConfig, fused: bool) -> None:
    policy = loaded(made(config), use_fused_kernels=fused)
    assert not policy.notices
    assert verify_packed_forward(policy, 40, gradients=True) < 1e-3
    assert verify_sampling(policy, 40) < 1e-3


def test_a_second_call_of_attention_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check of sampling is for: were the two calls' values kept as one, it would say so."""
    policy = loaded(made(DiffLlamaConfig(**SHAPE)))
    monkeypatch.setattr("gspo.rollout.local.prefill.Calls.of", lambda _, layer: (layer, 0))
    with pytest.raises(ValueError, match="cached decoding") as error:
        make_engine("local", EngineContext(policy, character_tokenizer("abc"), 0, 8, 40))
    assert names(error, "DiffLlamaForCausalLM", "actor_rollout_ref.rollout.name")


def longrope(original: int) -> dict[str, Any]:
    factors = {"short_factor": [1.0] * 4, "long_factor": [6.0] * 4}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": original, **factors}
    return {"original_max_position_embeddings": original, "rope_parameters": rope}


@pytest.mark.parametrize(
    ("config", "limit", "words"),
    [
        (Phi3Config(**SHAPE, **longrope(16)), 16, ("longrope",)),
        (LlamaConfig(**SHAPE), 64, ("64 positions",)),
        (
            LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}),
            64,
            ("64 positions",),
        ),
    ],
    ids=["longrope", "positions", "dynamic"],
)
def test_lengths_at_which_a_model_changes_are_refused(
    config: PreTrainedConfig, limit: int, words: tuple[str, ...]
) -> None:
    require_length(config, limit, "the model in here")
    with pytest.raises(ValueError, match="the model in here") as error:
        require_length(config, limit + 1, "the model in here")
    assert names(error, *words, f"{limit + 1} tokens", "data.max_response_length", "data.max_prompt_length")


def test_what_the_length_limit_is_for() -> None:
    """Behind the original length a packed row takes the long factors for short responses, and decoding for new keys."""
    policy = Policy(made(Phi3Config(**SHAPE, **longrope(16))))
    assert verify_packed_forward(policy, 16) < 1e-3
    assert verify_sampling(policy, 16) < 1e-3
    with pytest.raises(ValueError, match="differ from the model's own"):
        verify_packed_forward(policy, 40)
    with pytest.raises(ValueError, match="cached decoding"):
        verify_sampling(policy, 20)


def test_both_sides_of_a_window_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = loaded(made(MistralConfig(**SHAPE, sliding_window=12)), 12)
    monkeypatch.setattr("gspo.models.prefix_attention.PackedAttention._longest_sequence", 0)  # no window cuts
    assert verify_packed_forward(policy, 12) < 1e-3
    with pytest.raises(ValueError, match="differ from the model's own"):
        verify_packed_forward(policy, 40)


def test_a_wrong_gradient_is_refused() -> None:
    model = tiny_model("llama", torch.float32)
    policy = Policy(model)
    assert verify_packed_forward(policy, gradients=True) < 1e-3
    own = model.model.norm.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        result = own(hidden)
        return result.detach() + 0.5 * (result - result.detach()) if hidden.shape[1] > 9 else result

    model.model.norm.forward = forward  # the same values, and half the gradient where rows are packed
    assert verify_packed_forward(policy) < 1e-3
    with pytest.raises(ValueError, match=r"the gradient of .* differs .* by"):
        verify_packed_forward(policy, gradients=True)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (GptOssConfig(**SHAPE, head_dim=8, num_local_experts=4, num_experts_per_tok=2), ("attention sinks",)),
        (Qwen3NextConfig(**SHAPE, head_dim=8, num_experts=4), ("transformers' attention interface",)),
        (BertConfig(**SHAPE), ("tokens behind it",)),
    ],
    ids=lambda config: getattr(config, "model_type", ""),
)
def test_a_refusal_is_one_line_with_its_reason(config: PreTrainedConfig, words: tuple[str, ...]) -> None:
    model = made(config)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        loaded(model)
    assert names(error, type(model).__name__, *words)


def test_whatever_a_model_raises_is_a_refusal() -> None:
    model = tiny_model("llama", torch.float32)
    policy = Policy(model)

    def forward(*_: Any, **__: Any) -> Any:
        raise AttributeError("no such thing\nat all")

    model.model.layers[1].forward = forward
    with pytest.raises(ValueError, match="cannot run packed groups") as error:
        verify_packed_forward(policy)
    assert names(error, "LlamaForCausalLM", "no such thing", "another family")


def test_a_model_that_the_fused_operations_do_not_serve_runs_on_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise RuntimeError("a view is changed in place")

    monkeypatch.setattr("gspo.models.cpu.fused._GatedMLP.apply", refuse)
    model = made(CONFIGS["qwen3"]())
    types = {type(module) for module in model.modules()}
    policy = loaded(model)
    assert {type(module) for module in policy.model.modules()} == types
    (notice,) = policy.notices
    assert names(notice, "actor_rollout_ref.model.use_fused_kernels", "a view is changed in place")


class Noisy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.rand_like(x)


def test_a_model_that_draws_at_random_is_refused() -> None:
    model = tiny_model("llama", torch.float32)
    model.model.layers[0].mlp = Noisy()
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        verify_packed_forward(Policy(model))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_training_mode_draws_is_off_and_said(checkpointing: bool) -> None:
    config = CONFIGS["qwen3_moe"]()
    config.attention_dropout = 0.25
    model = made(config).train()
    model.model.layers[0].mlp.jitter_noise = 0.01
    model.model.layers[1].dropped = nn.Dropout(0.5)
    policy = loaded(model, enable_gradient_checkpointing=checkpointing)
    (notice,) = policy.notices
    assert names(notice, "Qwen3MoeForCausalLM", "attention_dropout 0.25", "jitter_noise 0.01", "dropout 0.5")
    assert randomness(policy.model) == {}
    assert policy.model.config.attention_dropout == 0.25  # it is exported as it was
    assert not policy.model.model.layers[0].self_attn.training
    with policy.backbone.sampling():
        assert not policy.model.model.layers[0].training
    assert policy.model.model.layers[0].training == checkpointing
    assert not loaded(policy.model).notices  # said once


@pytest.mark.parametrize(("longest", "size", "expected"), [(40, 10**5, 40), (4096, 10**9, 64), (4096, 10**12, 0)])
def test_a_large_model_is_checked_on_fewer_tokens(
    longest: int, size: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Policy(tiny_model("llama", torch.float32))
    real = sum(parameter.numel() for parameter in policy.model.parameters())
    monkeypatch.setattr("gspo.models.checking._OPERATIONS", {"cpu": 6.4e11 * real / size, "cuda": 0.0})
    assert checked_length(policy, longest) == expected
