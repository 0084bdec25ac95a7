"""Attention within packed groups by PyTorch's flex_attention, whose kernel skips what a mask hides (a GPU's path).

A token sees those of its own response and of its group's prompt that stand no later in the sequence (arXiv 2412.05496
describes the kernel). Softmax over both parts is one here, forward and backward, so nothing is merged.

Compiled on a GPU, once for each form of attention that a model has and for passes with and without gradients; elsewhere
it runs in plain operations over whole matrices of scores, which serves tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from gspo.models.packing import GroupSpan
from gspo.models.transfer import to_device

__all__ = ["FlexAttention", "serves_flex_attention"]

# The first generation of GPUs with bfloat16 units, for which the kernel is made.
_AMPERE = (8, 0)

# Compiled forms of the attention in one process: with and without gradients, windows, soft caps and other heads.
_FORMS = 64

# One kernel for rows of any length; short ones would otherwise go to a second, made for decoding.
_KERNEL_OPTIONS: Any = {"FORCE_USE_FLEX_ATTENTION": True}


def serves_flex_attention(query: Tensor) -> bool:
    """Whether the kernel is to be had for such a tensor: in a type of 16 bits, on a GPU that Triton compiles for."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return False
    return _has_triton() and torch.cuda.get_device_capability(query.device) >= _AMPERE


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


class FlexAttention:
    """The mask of one packed row, made once for each window that its layers have.

    Args:
        spans: where the groups stand in the row.
        position_ids: position of each token in its own sequence. (1, tokens)
    """

    def __init__(self, spans: Sequence[GroupSpan], position_ids: Tensor) -> None:
        self._position = position_ids[0]
        self._segment, self._prompt = to_device(_segments(spans), position_ids.device).unbind()
        self._masks: dict[int | None, flex.BlockMask] = {}

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """(heads, tokens, size), and twice (key-value heads, tokens, size) -> (heads, tokens, size)"""
        out: Tensor = _compiled(flex.flex_attention, q.is_cuda)(
            q[None],
            k[None],
            v[None],
            score_mod=None if softcap is None else _capped(softcap, q),
            block_mask=self._mask(window),
            scale=scale,
            enable_gqa=len(q) != len(k),
            kernel_options=_KERNEL_OPTIONS,
        )
        return out[0]

    def _mask(self, window: int | None) -> flex.BlockMask:
        if window not in self._masks:
            count, device = len(self._position), self._position.device
            make = _compiled(flex.create_block_mask, self._position.is_cuda)
            self._masks[window] = make(self._sees(window), None, None, count, count, device=device)
        return self._masks[window]

    def _sees(self, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """Whether token `i` sees token `j`, as flex_attention asks it."""
        position, segment, prompt = self._position, self._segment, self._prompt
        limit = None if window is None else _captured(window, position)

        def sees(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
            del batch, head  # all alike
            theirs = segment[j]
            seen = ((theirs == segment[i]) | (theirs == prompt[i])) & (position[j] <= position[i])
            return seen if limit is None else seen & (position[i] - position[j] < limit)

        return sees


def _segments(spans: Sequence[GroupSpan]) -> Tensor:
    """Each token's segment (a prompt or a response), and that of its group's prompt, numbered along the row.

    (2, tokens)
    """
    lengths: list[int] = []
    prompts: list[int] = []
    for span in spans:
        prompts += [len(lengths)] * (1 + len(span.response_lengths))
        lengths += [span.prompt_length, *span.response_lengths]
    numbers = torch.stack([torch.arange(len(lengths)), torch.tensor(prompts)])
    return numbers.repeat_interleave(torch.tensor(lengths), 1)


def _capped(softcap: float, like: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    cap = _captured(softcap, like.new_empty(0, dtype=torch.promote_types(like.dtype, torch.float32)))

    def capped(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        del batch, head, i, j
        return cap * torch.tanh(score / cap)

    return capped


def _captured(number: float, like: Tensor) -> Tensor:
    """As a tensor, since the compiler makes a symbol of a number, which kernels and gradients do not take."""
    return torch.full((), number, dtype=like.dtype, device=like.device)


def _compiled(function: Callable[..., Any], on_gpu: bool) -> Callable[..., Any]:
    return _compile(function) if on_gpu else function


@cache
def _compile(function: Callable[..., Any]) -> Callable[..., Any]:
    # A whole graph or an error: to fall back to plain operations would fill the memory with scores.
    torch._dynamo.config.cache_size_limit = max(_FORMS, torch._dynamo.config.cache_size_limit)
    return torch.compile(function, dynamic=True, fullgraph=True)
