"""Packed prompts that run through the model once, and keep what their responses attend to."""

from __future__ import annotations

from torch import Tensor

from gspo.models.packing import PackedRow
from gspo.models.prefix_attention import PackedAttention

__all__ = ["Prefill"]


class Prefill:
    """Attention of packed prompts that keeps each layer's keys and values.

    Args:
        row: the prompts.
        flex: see `PackedAttention`.
    """

    def __init__(self, row: PackedRow, flex: bool = False) -> None:
        self.spans = row.spans
        self.position_ids = row.position_ids
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
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
        self.keys[layer], self.values[layer] = key[0], value[0]
        return self._packed.attend(query, key, value, layer=layer, scale=scale, window=window, softcap=softcap)

    def padded(self, tensor: Tensor) -> Tensor:
        """(heads, tokens, size) of the packed prompts -> (prompts, heads, longest, size), zero behind each."""
        longest = max(span.prompt_length for span in self.spans)
        out = tensor.new_zeros(len(self.spans), tensor.shape[0], longest, tensor.shape[2])
        for number, span in enumerate(self.spans):
            out[number, :, : span.prompt_length] = tensor[:, span.start : span.responses_start]
        return out

    def before(self, tensor: Tensor, room: int) -> Tensor:
        """(heads, tokens, size) of the packed prompts -> (prompts, heads, longest + room, size).

        All prompts end where `room` begins; zero before each, and not set behind.
        """
        longest = max(span.prompt_length for span in self.spans)
        out = tensor.new_empty(len(self.spans), tensor.shape[0], longest + room, tensor.shape[2])
        for number, span in enumerate(self.spans):
            out[number, :, : longest - span.prompt_length] = 0
            out[number, :, longest - span.prompt_length : longest] = tensor[:, span.start : span.responses_start]
        return out
