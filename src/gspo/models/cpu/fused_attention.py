"""A decoder's attention layer up to its attention: three products of one input and rotary positions, in few passes.

A module is replaced only if, on random input, it asks the attention for what the replacement asks for: other rotary
positions, other norms or a gate on the output leave it what it is. What does not depend on the input (the scale, a
window, a soft cap) is taken from what the module asked for then.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from gspo.models.attention import IMPLEMENTATION
from gspo.models.cpu.linear import FastLinear, Packs, gradient_of_weight, linear, linear_plus, on_cpu_in_float32

__all__ = ["fuse_attention", "same_values"]

# Float32 sums in another order differ by about 1e-7 of their size; another formula by far more.
_TOLERANCE = 1e-5

_GIVEN = {"hidden_states", "position_embeddings", "attention_mask"}


class _Products(torch.autograd.Function):
    """Several linear layers of one input; the gradients of the input add up as they are formed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor | None) -> tuple[Tensor, ...]:
        weights, biases = cast(tuple[Tensor, ...], parameters[::2]), parameters[1::2]
        ctx.save_for_backward(x, *weights)
        ctx.with_bias = [bias is not None for bias in biases]
        return tuple(linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        of_x: Tensor | None = None
        if ctx.needs_input_grad[0]:
            for grad, weight in zip(grads, weights, strict=True):
                of_x = linear(grad, weight.t()) if of_x is None else linear_plus(grad, weight.t(), of_x)
        of_parameters: list[Tensor | None] = []
        for number, (grad, with_bias) in enumerate(zip(grads, ctx.with_bias, strict=True)):
            wanted, wanted_bias = ctx.needs_input_grad[1 + 2 * number : 3 + 2 * number]
            of_parameters.append(gradient_of_weight(grad, x) if wanted else None)
            of_parameters.append(grad.flatten(0, -2).sum(0) if with_bias and wanted_bias else None)
        return of_x, *of_parameters


class _Rotary(torch.autograd.Function):
    """Rotary positions (Su et al. 2021, arXiv 2104.09864, eq. 34; halves in place of pairs), heads moved to the front.

    (batch, tokens, heads, size), (batch, tokens, size) x2 -> (batch, heads, tokens, size)
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (grad,) = grads
        first, second = sin[:, None].chunk(2, -1)
        out = grad.new_empty(grad.transpose(1, 2).shape)
        _turn(grad, cos[:, None], second, -first, out.transpose(1, 2))
        return out, None, None


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x = x.transpose(1, 2)
    first, second = sin[:, None].chunk(2, -1)
    return _turn(x, cos[:, None], -first, second, x.new_empty(x.shape))


def _turn(x: Tensor, cos: Tensor, to_first: Tensor, to_second: Tensor, out: Tensor) -> Tensor:
    """Each half times its cosine, plus the other half times what leads to it; the factors are small next to `x`."""
    half = x.shape[-1] // 2
    torch.mul(x, cos, out=out)
    out[..., :half].addcmul_(x[..., half:], to_first)
    out[..., half:].addcmul_(x[..., :half], to_second)
    return out


class _FusedAttention(Packs, nn.Module):
    # What the module asks an attention context for, besides heads.
    asked: dict[str, Any]
    head_dim: int
    q_norm: nn.Module
    k_norm: nn.Module
    o_proj: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        context: Any = None,
        **further: Any,
    ) -> tuple[Tensor, Any]:
        layers, size = _layers(self), self.head_dim
        usual = context is not None and attention_mask is None and further.get("past_key_values") is None
        fits = position_embeddings is not None and position_embeddings[0].shape[-1] == size
        if not (layers and usual and fits and on_cpu_in_float32(hidden_states, layers[0].weight)):
            given = {"position_embeddings": position_embeddings, "attention_mask": attention_mask, "context": context}
            return cast(tuple[Tensor, Any], super().forward(hidden_states, **given, **further))
        assert position_embeddings is not None
        query, key, value = (
            product.view(*hidden_states.shape[:-1], -1, size) for product in self._products(hidden_states, layers)
        )
        if getattr(self, "q_norm", None) is not None:
            query, key = self.q_norm(query), self.k_norm(key)
        turn = _Rotary.apply if torch.is_grad_enabled() else _rotated
        query, key = turn(query, *position_embeddings), turn(key, *position_embeddings)
        seen: Tensor = context.attend(query, key, value.transpose(1, 2), **self.asked)
        output: Tensor = self.o_proj(seen.reshape(*hidden_states.shape[:-1], -1))
        return output, None

    def _products(self, x: Tensor, layers: tuple[FastLinear, ...]) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled():
            return cast(
                tuple[Tensor, ...], _Products.apply(x, *(p for layer in layers for p in (layer.weight, layer.bias)))
            )
        if self.packed is None:
            return tuple(linear(x, layer.weight, layer.bias) for layer in layers)
        biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        together = linear(x, self.packed, torch.cat(biases) if biases else None)
        return together.split([layer.out_features for layer in layers], -1)

    def packed_layers(self) -> tuple[FastLinear, ...]:
        return _layers(self)


def _layers(module: nn.Module) -> tuple[FastLinear, ...]:
    """The three products; none where something else (an adapter) replaces one."""
    layers = tuple(getattr(module, name, None) for name in ("q_proj", "k_proj", "v_proj"))
    return cast(tuple[FastLinear, ...], layers) if all(type(layer) is FastLinear for layer in layers) else ()


def fuse_attention(model: nn.Module) -> None:
    """Replaces the attention layers that are of the usual form, in place."""
    for module in model.modules():
        if not isinstance(module, _FusedAttention) and _may_be_usual(module):
            original = type(module)
            module.__class__ = type(f"Fused{original.__name__}", (_FusedAttention, original), {})
            if not _agrees(cast(_FusedAttention, module), original):
                module.__class__ = original


def _may_be_usual(module: nn.Module) -> bool:
    layers = _layers(module)
    if not layers or not on_cpu_in_float32(layers[0].weight, layers[0].weight):
        return False
    if len({layer.bias is None for layer in layers}) > 1:
        return False
    if not all(hasattr(module, name) for name in ("o_proj", "head_dim", "layer_idx", "config")):
        return False
    parameters = list(inspect.signature(type(module).forward).parameters.values())[1:]
    required = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return required <= _GIVEN and takes_more and parameters[0].name == "hidden_states"


class _Recorder:
    """An attention context that keeps what it is asked, and answers with the queries."""

    def __init__(self) -> None:
        self.calls = 0

    def attend(self, query: Tensor, key: Tensor, value: Tensor, **asked: Any) -> Tensor:
        self.heads, self.asked = (query, key, value), asked
        self.calls += 1
        return query.transpose(1, 2)


@torch.no_grad()
def _agrees(module: _FusedAttention, original: type[nn.Module]) -> bool:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(1, 3, _layers(module)[0].in_features, generator=draw)
    angles = torch.randn(1, 3, module.head_dim // 2, generator=draw).repeat(1, 1, 2)
    given = {"hidden_states": x, "position_embeddings": (angles.cos(), angles.sin()), "attention_mask": None}
    theirs, ours = _Recorder(), _Recorder()
    try:
        with _project_attention(cast(Any, module.config)):
            expected = cast(Any, original).forward(module, **given, context=theirs)[0]
        module.asked = theirs.asked
        found = module(**given, context=ours)[0]
        pairs = zip((*theirs.heads, expected), (*ours.heads, found), strict=True)
        return theirs.calls == ours.calls and all(same_values(b, a) for a, b in pairs)
    except Exception:  # a module of other shapes, or that is called in another way, is not of the usual form
        return False


def same_values(found: Tensor, expected: Tensor) -> bool:
    """Whether one formula gave both, in float32."""
    return found.shape == expected.shape and bool(((found - expected).abs() <= _TOLERANCE * (1 + expected.abs())).all())


@contextmanager
def _project_attention(config: Any) -> Iterator[None]:
    before = config._attn_implementation
    config._attn_implementation = IMPLEMENTATION
    try:
        yield
    finally:
        config._attn_implementation = before
