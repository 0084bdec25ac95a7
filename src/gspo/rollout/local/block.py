"""The key-value cache of responses that are sampled side by side: each prompt once, each response's tokens after it.

Prompts of a few tokens are the exception: they stand before every row's own tokens and count as some of them.
Own tokens end in the same column for all responses of a block, so that a new one is written by one slice for all of
them; a response that began later than others starts in a later column. What is before its start is zero and hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gspo.rollout.local.prefill import Call, Calls, Prefill

__all__ = ["FIRST_CAPACITY", "DecodeBlock", "LayerTensors"]

# Room for this many tokens of each response at first; it doubles when it is full.
FIRST_CAPACITY = 64
# Prompts that take no more than this for all rows of a block, in a layer's keys and values, are short.
_SHORT_BYTES = 2 * 2**20

LayerTensors = dict[Call, tuple[Tensor, Tensor]]
"""Keys and values of each layer's call of attention."""


class DecodeBlock:
    """Attends one new token of every response of the block.

    Attributes:
        prompts: (prompts, kv heads, longest, size), zero behind each prompt; of no width where prompts are short.
        prompt_lengths: as far as they stand in `prompts`. (prompts,)
        group: the prompt of each row; rows are ordered by it. (rows,)
        own: (rows, kv heads, capacity, size), zero before each start; empty where there is no token yet.
        starts: column of each row's first own token. (rows,)
        position: column of the token that comes next, as many as the longest row has tokens.
    """

    def __init__(
        self,
        prompts: LayerTensors,
        prompt_lengths: Tensor,
        group: Tensor,
        own: LayerTensors,
        starts: Tensor,
        position: int,
    ) -> None:
        self.prompts = prompts
        self.prompt_lengths = prompt_lengths
        self.group = group
        self.own = own
        self.starts = starts
        self.position = position
        counts = torch.bincount(group, minlength=len(prompt_lengths))
        first_rows = counts.cumsum(0) - counts
        # Read once, so that no token waits for the device to say whether anything is hidden from it.
        width = max((keys.shape[2] for keys, _ in prompts.values()), default=0)
        ragged = ((prompt_lengths[group] < width) | (starts > 0)).any()
        furthest = (prompt_lengths[group] - starts).max()
        most, self._furthest, self._ragged = torch.stack([counts.max(), furthest, ragged.long()]).tolist()
        # A grid (prompts, most rows of a prompt), so that one product serves a prompt's rows.
        self._grid = (len(counts), most)
        self._cell = group * self._grid[1] + torch.arange(len(group), device=group.device) - first_rows[group]
        self._full_grid = self._grid[0] * self._grid[1] == len(group)
        self._biases: dict[int | None, Tensor] = {}
        self._calls = Calls()

    @classmethod
    def prefilled(cls, prefill: Prefill, rows_per_prompt: int) -> DecodeBlock:
        """Responses of which nothing has been run yet, behind a prefill that has run.

        Short prompts are written before each row's own tokens, as if they were some: reading them for every row costs
        less than the operations that attend to a prompt apart.
        """
        device = prefill.position_ids.device
        lengths, longest = torch.tensor([span.prompt_length for span in prefill.spans], device=device), prefill.longest
        group = torch.arange(len(lengths), device=device).repeat_interleave(rows_per_prompt)
        keys = next(iter(prefill.keys.values()))
        if 2 * len(group) * longest * keys[:, 0].numel() * keys.element_size() > _SHORT_BYTES:
            prompts = {
                call: (prefill.padded(k), prefill.padded(prefill.values[call])) for call, k in prefill.keys.items()
            }
            return cls(prompts, lengths, group, {}, torch.zeros_like(group), 0)
        own: LayerTensors = {}
        nothing: LayerTensors = {}
        for call, k in prefill.keys.items():
            first, second = (prefill.padded(x, before=FIRST_CAPACITY)[group] for x in (k, prefill.values[call]))
            own[call] = first, second
            empty = [x.new_empty(len(lengths), x.shape[1], 0, x.shape[3]) for x in own[call]]
            nothing[call] = empty[0], empty[1]
        return cls(nothing, torch.zeros_like(lengths), group, own, (longest - lengths)[group], longest)

    def __len__(self) -> int:
        """Number of responses."""
        return len(self.group)

    @property
    def position_ids(self) -> Tensor:
        """Position of the token that comes next, in its whole sequence. (rows, 1)"""
        return (self.prompt_lengths[self.group] + self.position - self.starts)[:, None]

    def advance(self) -> None:
        """The next token is one further on."""
        self.position += 1
        self._biases.clear()
        self._calls.clear()

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
        call = self._calls.of(layer)
        keys, values = self._append(call, key, value)
        prompt_keys, prompt_values = self.prompts[call]

        own_query = query.reshape(rows, kv_heads, heads // kv_heads, size) * scale
        own = own_query @ keys.transpose(2, 3)  # (rows, kv heads, repeats, own tokens)
        width = prompt_keys.shape[2]
        scores = own
        if width:
            prompt = self._to_rows(self._to_grid(own_query) @ prompt_keys.transpose(2, 3), heads // kv_heads)
            scores = torch.cat([prompt, own], -1)
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        bias = self._bias(window, width, scores.dtype)
        if bias is not None:
            scores += bias
        weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(value.dtype)
        out = weights[..., width:] @ values
        if width:
            out += self._to_rows(self._to_grid(weights[..., :width]) @ prompt_values, heads // kv_heads)
        return out.reshape(rows, 1, heads, -1)

    def _append(self, call: Call, *new: Tensor) -> tuple[Tensor, Tensor]:
        """Stores a token's key and value and returns all there are.

        (rows, kv heads, 1, size) each -> (rows, kv heads, columns, size) each
        """
        held = self.own.get(call)
        if held is None or self.position >= held[0].shape[2]:
            capacity = FIRST_CAPACITY if held is None else 2 * held[0].shape[2]
            grown = [tensor.new_empty(*tensor.shape[:2], capacity, tensor.shape[3]) for tensor in new]
            for into, tensor in zip(grown, held or (), strict=False):
                into[:, :, : self.position] = tensor
            held = self.own[call] = (grown[0], grown[1])
        for into, tensor in zip(held, new, strict=True):
            into[:, :, self.position] = tensor[:, :, 0]
        return held[0][:, :, : self.position + 1], held[1][:, :, : self.position + 1]

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
        """Minus infinity behind a prompt, before a row's start and on what a window hides. (rows, 1, 1, keys)"""
        if not self._ragged and (window is None or self._furthest + self.position < window):
            return None  # nothing is hidden
        if window not in self._biases:
            lengths, starts = self.prompt_lengths[self.group][:, None], self.starts[:, None]
            prompt_at = torch.arange(longest, device=lengths.device)[None]
            column = torch.arange(self.position + 1, device=lengths.device)[None]
            hidden = torch.cat([prompt_at >= lengths, column < starts], 1)
            if window is not None:
                at = torch.cat([prompt_at.expand(len(lengths), -1), lengths - starts + column], 1)
                hidden |= lengths - starts + self.position - at >= window
            bias = torch.zeros(hidden.shape, dtype=dtype, device=lengths.device).masked_fill_(hidden, float("-inf"))
            self._biases[window] = bias[:, None, None]
        return self._biases[window]
