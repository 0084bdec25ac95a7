"""Fused norms, MLPs and attention layers against the modules they replace, in float64: values and every gradient."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from models_helpers import random_groups, tiny_model
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaAttention

from gspo.groups import GroupBatch, Outcome
from gspo.models import Policy
from gspo.models.cpu.fused import use_fused_kernels
from gspo.models.cpu.linear import FastLinear, packed_weights


def fused(family: str) -> PreTrainedModel:
    model = tiny_model(family, torch.float32, scale=2.0)
    use_fused_kernels(model)
    if not any(isinstance(module, FastLinear) for module in model.modules()):
        pytest.skip("oneDNN is not to be had on this machine")
    return model


def kinds(model: PreTrainedModel) -> set[str]:
    return {type(module).__name__ for module in model.modules() if type(module).__name__.startswith("Fused")}


def batch_of(seed: int) -> GroupBatch:
    groups = random_groups(seed, 3)
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(1.0)
    return GroupBatch.from_groups(groups)


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("llama", {"FusedLlamaAttention", "FusedLlamaMLP", "FusedLlamaRMSNorm"}),
        ("qwen2", {"FusedQwen2Attention", "FusedQwen2MLP", "FusedQwen2RMSNorm"}),
        ("qwen3", {"FusedQwen3Attention", "FusedQwen3MLP", "FusedQwen3RMSNorm"}),
        # Its norms add one to their weights, its MLPs are opened by a GELU.
        ("gemma2", {"FusedGemma2Attention"}),
    ],
)
def test_only_the_usual_form_is_replaced(family: str, expected: set[str]) -> None:
    assert kinds(fused(family)) == expected


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma2", "qwen3_moe"])
def test_log_probs_and_gradients_are_those_of_the_plain_model(family: str) -> None:
    model, batch = fused(family), batch_of(0)
    plain = tiny_model(family, torch.float64, scale=2.0)
    weights = torch.randn(batch["response_mask"].shape, generator=torch.Generator().manual_seed(1))
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for one in (model, plain):
        log_probs, _ = Policy(one).log_probs(batch)
        (log_probs * weights.to(log_probs.dtype)).sum().backward()
        found.append((log_probs, {name: p.grad for name, p in one.named_parameters() if p.grad is not None}))
    (ours, gradients), (exact, exact_gradients) = found
    torch.testing.assert_close(ours.double(), exact, atol=2e-5, rtol=2e-5)
    assert gradients.keys() == exact_gradients.keys()
    for name, gradient in exact_gradients.items():
        error = float((gradients[name].double() - gradient).norm() / gradient.norm().clamp(min=1e-3))
        assert error < 1e-4, (name, error)


@pytest.mark.parametrize("smallest", [0.0, 1e-4])
def test_a_norm_with_a_small_or_no_weight_has_exact_gradients(smallest: float) -> None:
    norm = fused("llama").model.norm
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(smallest, 2.0, len(norm.weight)))
    x = torch.randn(5, len(norm.weight), requires_grad=True)
    upstream = torch.randn_like(x)
    found = torch.autograd.grad(norm(x), (x, norm.weight), upstream)
    wide, weight = x.detach().double().requires_grad_(), norm.weight.detach().double().requires_grad_()
    exact = wide * (wide.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt() * weight
    for ours, expected in zip(found, torch.autograd.grad(exact, (wide, weight), upstream.double()), strict=True):
        torch.testing.assert_close(ours.double(), expected, atol=1e-5, rtol=1e-5)


def test_sampling_reads_the_same_values_from_packed_weights() -> None:
    model = fused("llama")
    tokens = torch.arange(3, 40)[None]
    with torch.no_grad():
        plain = tiny_model("llama", torch.float64, scale=2.0)(tokens, use_cache=False).logits
        with packed_weights(model):
            packed = model(tokens, use_cache=False).logits
        torch.testing.assert_close(packed.double(), plain, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(model(tokens, use_cache=False).logits, packed, atol=1e-4, rtol=1e-4)


def test_a_copy_is_a_model_of_its_own_and_another_type_takes_the_plain_way() -> None:
    model = fused("llama")
    twin = copy.deepcopy(model).double()
    tokens = torch.arange(3, 20)[None]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        plain = tiny_model("llama", torch.float64, scale=2.0)
        torch.testing.assert_close(
            twin(tokens, use_cache=False).logits, plain(tokens, use_cache=False).logits, atol=1e-5, rtol=1e-5
        )


def test_names_and_weights_stay() -> None:
    assert list(fused("qwen3").state_dict()) == list(tiny_model("qwen3").state_dict())


class _TurnsPairs(LlamaAttention):
    """Another kind of rotary positions: neighbours in place of halves."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        cos, sin = (x.chunk(2, -1)[0].repeat_interleave(2, -1) for x in position_embeddings)
        return super().forward(hidden_states, (cos, sin), attention_mask, **kwargs)


class _Gates(LlamaAttention):
    """What comes out is weighed by what came in."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        out, weights = super().forward(hidden_states, *args, **kwargs)
        return out * hidden_states.sigmoid(), weights


@pytest.mark.parametrize("kind", [_TurnsPairs, _Gates])
def test_an_attention_layer_that_does_something_else_stays_what_it_is(kind: type[LlamaAttention]) -> None:
    model = tiny_model("llama", torch.float32)
    model.model.layers[1].self_attn.__class__ = kind
    use_fused_kernels(model)
    assert type(model.model.layers[1].self_attn) is kind


def test_an_attention_layer_asks_for_what_the_original_asked_for() -> None:
    layers = [layer.self_attn for layer in fused("gemma2").model.layers]
    windows = [layer.asked["window"] for layer in layers]
    assert windows == [6, None]
    assert [layer.asked["layer"] for layer in layers] == [0, 1]
    assert {(layer.asked["scale"], layer.asked["softcap"]) for layer in layers} == {(16**-0.5, 50.0)}


def test_a_layer_put_in_the_place_of_a_product_is_used() -> None:
    model, batch = fused("llama"), batch_of(2)
    before, _ = Policy(model).log_probs(batch)
    zero = nn.Linear(32, 32, bias=False)
    nn.init.zeros_(zero.weight)
    model.model.layers[0].self_attn.q_proj = nn.Sequential(zero)
    replaced, _ = Policy(model).log_probs(batch)
    plain = tiny_model("llama", torch.float64, scale=2.0)
    with torch.no_grad():
        plain.model.layers[0].self_attn.q_proj.weight.zero_()
    expected, _ = Policy(plain).log_probs(batch)
    torch.testing.assert_close(replaced.double(), expected, atol=2e-5, rtol=2e-5)
    assert not torch.allclose(before, replaced, atol=1e-3)


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_sampling_multiplies_by_three_weights_at_once(family: str) -> None:
    model, batch = fused(family), batch_of(3)
    attention = model.model.layers[0].self_attn
    with torch.no_grad():
        expected, _ = Policy(tiny_model(family, torch.float64, scale=2.0)).log_probs(batch)
        with packed_weights(model):
            assert attention.packed is not None
            assert attention.q_proj.packed is None
            packed, _ = Policy(model).log_probs(batch)
    assert attention.packed is None
    torch.testing.assert_close(packed.double(), expected, atol=2e-5, rtol=2e-5)
