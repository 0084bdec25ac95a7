"""The attention function through which every model of this project runs, in training and in sampling.

transformers lets a model's attention be replaced by name and hands the function any further keyword of the forward
call. Here that keyword is the context, an object that knows how the tokens of this call see one another: packed groups
in training, a key-value cache in sampling. Under this name transformers builds no mask of its own.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

__all__ = ["IMPLEMENTATION", "AttentionContext", "use_project_attention"]

IMPLEMENTATION = "gspo_shared_prefix"


class AttentionContext(Protocol):
    """How the tokens of one forward call see one another."""

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        layer: int,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> Tensor:
        """Attention of one layer.

        Args:
            query: (batch, heads, tokens, head size), rotary positions applied.
            key, value: (batch, key-value heads, tokens, head size); a value's size may be another than a key's.
            layer: number of the layer, from 0.
            scale: factor on the scores.
            window: a token sees itself and the `window - 1` before it; None sees all.
            softcap: scores become softcap * tanh(score / softcap) (Gemma 2); None leaves them.

        Returns:
            (batch, tokens, heads, a value's size)
        """
        ...


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    context: AttentionContext | None = None,
    s_aux: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    name = type(module).__name__
    if context is None:
        raise ValueError(f"{name} was called without an attention context; this model cannot run packed groups")
    if attention_mask is not None or s_aux is not None:
        what = "a mask of its own" if attention_mask is not None else "attention sinks"
        raise ValueError(f"{name} uses {what}, which the shared-prefix attention does not support")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer: int = module.layer_idx  # type: ignore[assignment]
    attend = partial(context.attend, layer=layer, scale=scale, window=sliding_window, softcap=softcap)
    device = query.device.type
    if not torch.is_autocast_enabled(device):
        return attend(query, key, value).contiguous(), None
    # Rotary angles are float32 and values are not: a context sees one type, and computes as in a model of that type.
    dtype = torch.get_autocast_dtype(device)
    with torch.autocast(device, enabled=False):
        return attend(query.to(dtype), key.to(dtype), value.to(dtype)).contiguous(), None


AttentionInterface.register(IMPLEMENTATION, _attention)


def use_project_attention(model: PreTrainedModel) -> None:
    """Makes `model` run its attention through the context that each forward call brings.

    Raises:
        ValueError: the model's code does not use transformers' attention interface.
    """
    if not getattr(model, "_supports_attention_backend", False):
        raise ValueError(
            f"{type(model).__name__} does not route its attention through transformers' attention interface, "
            "which packed groups need; use a decoder that does (Llama, Qwen, Gemma, Mistral, ...)"
        )
    model.config._attn_implementation = IMPLEMENTATION
