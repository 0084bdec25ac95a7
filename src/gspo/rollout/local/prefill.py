"""Packed prompts that run through the model once, and keep what their responses attend to."""

from __future__ import annotations

from collections import Counter

from torch import Tensor

from gspo.models.packing import PackedRow
from gspo.models.prefix_attention import PackedAttention

__all__ = ["Call", "Calls", "Prefill"]

Call = tuple[int, int]
"""A layer, and which of its calls of attention in a pass: most have one, differential attention has two."""


class Calls:
    """Numbers the calls of attention of each layer within a pass."""

    def __init__(self) -> None:
        self._made: Counter[int] = Counter()

    def of(self, layer: int) -> Call:
        """The next call of a layer."""
        self._made[layer] += 1
        return layer, self._made[layer] - 1

    def clear(self) -> None:
        """The pass has ended."""
        self._made.clear()


class Prefill:
    """Attention of packed prompts that keeps each layer's keys and values.

    Args:
        row: the prompts.
        flex: see `PackedAttention`.
    """

    def __init__(self, row: PackedRow, flex: bool = False) -> None:
        self.spans = row.spans
        self.position_ids = row.position_ids
        self.keys: dict[Call, Tensor] = {}
        self.values: dict[Call, Tensor] = {}
        self._calls = Calls()
        self._packed = PackedAttention(row.spans, row.position_ids, flex)

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
        call = self._calls.of(layer)
        self.keys[call], self.values[call] = key[0], value[0]
        return self._packed.attend(query, key, value, layer=layer, scale=scale, window=window, softcap=softcap)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt."""
        return max(span.prompt_length for span in self.spans)

    def padded(self, tensor: Tensor, *, before: int | None = None) -> Tensor:
        """Each prompt's part of (heads, tokens, size), zero where it has no token. (prompts, heads, longest, size)

        Args:
            tensor: of the packed prompts.
            before: prompts end together, with room for so many tokens behind; None: they begin together.
        """
        out = tensor.new_zeros(len(self.spans), tensor.shape[0], self.longest + (before or 0), tensor.shape[2])
        for number, span in enumerate(self.spans):
            start = 0 if before is None else self.longest - span.prompt_length
            out[number, :, start : start + span.prompt_length] = tensor[:, span.start : span.responses_start]
        return out
