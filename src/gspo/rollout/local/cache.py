"""The attention of a batch that is being sampled: responses leave it when they have ended, others enter meanwhile."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor

from gspo.rollout.local.block import DecodeBlock
from gspo.rollout.local.joining import BlockPart, arrange
from gspo.rollout.local.prefill import Prefill

__all__ = ["DecodeCache"]


class DecodeCache:
    """Attention context of one new token for every response of the batch.

    Rows are in the order in which they entered. They are kept in blocks: of one where all are about as far on, of
    several where some are far ahead, so that the young need not carry the width of the old.
    """

    def __init__(self) -> None:
        self._blocks: list[DecodeBlock] = []

    @property
    def position_ids(self) -> Tensor:
        """Position of the token that comes next, in its whole sequence. (rows, 1)"""
        return torch.cat([block.position_ids for block in self._blocks])

    def advance(self) -> None:
        """The next token is one further on."""
        for block in self._blocks:
            block.advance()

    def exchange(self, keep: Tensor, entering: Prefill | None = None, rows_per_prompt: int = 0) -> None:
        """Goes on with some rows, and behind them with new ones. Prompts without a row are forgotten.

        Args:
            keep: which rows go on, in order. (kept,)
            entering: prompts whose responses enter; it has run.
            rows_per_prompt: the number of responses of each of them.
        """
        ends = accumulate(len(block) for block in self._blocks)
        spans = [(end - len(block), end) for block, end in zip(self._blocks, ends, strict=True)]
        held = [keep[(keep >= start) & (keep < end)] - start for start, end in spans]
        parts = [BlockPart.of(block, rows) for block, rows in zip(self._blocks, held, strict=True) if len(rows)]
        if entering is not None:
            block = DecodeBlock.prefilled(entering, rows_per_prompt)
            parts.append(BlockPart.of(block, torch.arange(len(block), device=block.group.device)))
        self._blocks = []  # blocks of which no row goes on are freed before the others are copied
        self._blocks = arrange(parts)

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
        if len(self._blocks) == 1:
            return self._blocks[0].attend(query, key, value, layer=layer, scale=scale, window=window, softcap=softcap)
        sizes = [len(block) for block in self._blocks]
        shares = zip(self._blocks, *[tensor.split(sizes) for tensor in (query, key, value)], strict=True)
        outs = [
            block.attend(q, k, v, layer=layer, scale=scale, window=window, softcap=softcap) for block, q, k, v in shares
        ]
        return torch.cat(outs)
