"""The key-value cache of a batch that is being sampled: each prompt once, each response's own tokens beside it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gspo.models.packing import PackedRow
from gspo.models.prefix_attention import PackedAttention

__all__ = ["DecodeCache", "Prefill"]

# Room for this many tokens of each response at first; it doubles when it is full.
_FIRST_CAPACITY = 64


class Prefill:
    """Attention of packed prompts that keeps each layer's keys and values."""

    def __init__(self, row: PackedRow) -> None:
        self.spans = row.spans
        self.position_ids = row.position_ids
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._packed = PackedAttention(row.spans, row.position_ids)

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
        """See `AttentionContext`."""
        self.keys[layer], self.values[layer] = key[0], value[0]
        return self._packed.attend(query, key, value, layer=layer, scale=scale, window=window, softcap=softcap)

    def padded(self, tensor: Tensor) -> Tensor:
        """(heads, tokens, size) of the packed prompts -> (prompts, heads, longest, size), zero behind each."""
        longest = max(span.prompt_length for span in self.spans)
        out = tensor.new_zeros(len(self.spans), tensor.shape[0], longest, tensor.shape[2])
        for number, span in enumerate(self.spans):
            out[number, :, : span.prompt_length] = tensor[:, span.start : span.responses_start]
        return out


class DecodeCache:
    """Attention context of one new token for every response that is still being sampled.

    All responses are at the same position of their own. Rows are ordered by group.

    Args:
        prefill: a prefill that has run.
        rows_per_prompt: number of responses of each prompt.
    """

    def __init__(self, prefill: Prefill, rows_per_prompt: Sequence[int]) -> None:
        self._prompt_keys = {layer: prefill.padded(keys) for layer, keys in prefill.keys.items()}
        self._prompt_values = {layer: prefill.padded(values) for layer, values in prefill.values.items()}
        device = prefill.position_ids.device
        self.prompt_lengths = torch.tensor([span.prompt_length for span in prefill.spans], device=device)
        self.group = torch.repeat_interleave(
            torch.arange(len(rows_per_prompt), device=device), torch.tensor(rows_per_prompt, device=device)
        )
        self._own_keys: dict[int, Tensor] = {}
        self._own_values: dict[int, Tensor] = {}
        self.position = 0
        self._arrange()

    def __len__(self) -> int:
        """Number of responses."""
        return len(self.group)

    @property
    def position_ids(self) -> Tensor:
        """Position of the token that comes next, in its whole sequence. (rows, 1)"""
        return (self.prompt_lengths[self.group] + self.position)[:, None]

    def advance(self) -> None:
        """The next token is one further on."""
        self.position += 1
        self._biases.clear()

    def keep(self, rows: Tensor) -> None:
        """Goes on with these rows only (in order); prompts without a row are forgotten. (kept,)"""
        self.group = self.group[rows]
        alive, self.group = self.group.unique(return_inverse=True)
        self.prompt_lengths = self.prompt_lengths[alive]
        for cache in (self._prompt_keys, self._prompt_values):
            for layer in cache:
                cache[layer] = cache[layer][alive] if len(alive) < len(cache[layer]) else cache[layer]
        for cache in (self._own_keys, self._own_values):
            for layer, tensor in cache.items():
                kept = tensor.new_empty(len(rows), *tensor.shape[1:])
                kept[:, :, : self.position] = tensor[rows, :, : self.position]
                cache[layer] = kept
        self._arrange()

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
        """See `AttentionContext`. The batch is the rows, each with one token."""
        rows, heads, _, size = query.shape
        kv_heads = key.shape[1]
        keys, values = self._append(self._own_keys, layer, key), self._append(self._own_values, layer, value)
        prompt_keys, prompt_values = self._prompt_keys[layer], self._prompt_values[layer]

        own_query = query.view(rows, kv_heads, heads // kv_heads, size) * scale
        own = own_query @ keys.transpose(2, 3)  # (rows, kv heads, repeats, own tokens)
        prompt = self._to_rows(self._to_grid(own_query) @ prompt_keys.transpose(2, 3), heads // kv_heads)
        scores = torch.cat([prompt, own], -1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        bias = self._bias(window, prompt_keys.shape[2], scores.dtype)
        if bias is not None:
            scores += bias
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
        to_prompt, to_own = weights.split([prompt.shape[-1], own.shape[-1]], -1)
        out = to_own @ values + self._to_rows(self._to_grid(to_prompt) @ prompt_values, heads // kv_heads)
        return out.reshape(rows, 1, heads, size)

    def _append(self, cache: dict[int, Tensor], layer: int, new: Tensor) -> Tensor:
        """Stores one token and returns all there are. (rows, kv heads, 1, size) -> (rows, kv heads, tokens, size)"""
        held = cache.get(layer)
        if held is None or self.position >= held.shape[2]:
            capacity = _FIRST_CAPACITY if held is None else 2 * held.shape[2]
            grown = new.new_empty(*new.shape[:2], capacity, new.shape[3])
            if held is not None:
                grown[:, :, : self.position] = held
            cache[layer] = held = grown
        held[:, :, self.position] = new[:, :, 0]
        return held[:, :, : self.position + 1]

    def _arrange(self) -> None:
        """Places the rows in a grid (prompts, most rows of a prompt), so that one product serves a prompt's rows."""
        counts = torch.bincount(self.group, minlength=len(self.prompt_lengths))
        starts = counts.cumsum(0) - counts
        self._grid = (len(counts), int(counts.max()))
        column = torch.arange(len(self.group), device=self.group.device) - starts[self.group]
        self._cell = self.group * self._grid[1] + column
        self._full_grid = self._grid[0] * self._grid[1] == len(self.group)
        self._biases: dict[int | None, Tensor | None] = {}

    def _to_grid(self, tensor: Tensor) -> Tensor:
        """(rows, kv heads, repeats, size) -> (prompts, kv heads, rows of a prompt * repeats, size)"""
        prompts, most = self._grid
        _, kv_heads, repeats, size = tensor.shape
        if not self._full_grid:
            cells = tensor.new_zeros(prompts * most, kv_heads, repeats, size)
            tensor = cells.index_copy_(0, self._cell, tensor)
        cells = tensor.view(prompts, most, kv_heads, repeats, size).transpose(1, 2)
        return cells.reshape(prompts, kv_heads, most * repeats, size)

    def _to_rows(self, tensor: Tensor, repeats: int) -> Tensor:
        """The inverse of `_to_grid`."""
        prompts, most = self._grid
        kv_heads, size = tensor.shape[1], tensor.shape[3]
        cells = tensor.view(prompts, kv_heads, most, repeats, size).transpose(1, 2)
        cells = cells.reshape(prompts * most, kv_heads, repeats, size)
        return cells if self._full_grid else cells[self._cell]

    def _bias(self, window: int | None, longest: int, dtype: torch.dtype) -> Tensor | None:
        """Minus infinity on padding behind a prompt and on what a window hides. (rows, 1, 1, keys)"""
        if window not in self._biases:
            lengths = self.prompt_lengths[self.group][:, None]
            device = lengths.device
            prompt_at = torch.arange(longest, device=device)[None]
            own_at = lengths + torch.arange(self.position + 1, device=device)
            hidden = torch.cat([prompt_at >= lengths, torch.zeros_like(own_at, dtype=torch.bool)], 1)
            if window is not None:
                at = torch.cat([prompt_at.expand(len(lengths), -1), own_at], 1)
                hidden |= lengths + self.position - at >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=device).masked_fill_(hidden, float("-inf"))
            self._biases[window] = bias[:, None, None] if bool(hidden.any()) else None
        return self._biases[window]
