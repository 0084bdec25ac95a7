"""Rows that leave and rows that enter a batch: what goes on is copied once, into as few blocks as is worth it.

A block computes a rectangle: as many columns for every row as its longest has, as many places for every prompt as the
prompt with most rows has, as wide as its longest prompt. Old and new rows in one block waste the difference, in blocks
of their own they cost more and smaller operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from gspo.rollout.local.block import FIRST_CAPACITY, DecodeBlock, LayerTensors

__all__ = ["BlockPart", "arrange"]

# The operations of one more block take about as long as this many attention scores do on a CPU (some 0.1 ms a layer).
_BLOCK_COST = 1024


@dataclass(frozen=True)
class BlockPart:
    """Those rows of a block that go on.

    Attributes:
        block: where they are.
        rows: which, in order. (kept,)
        prompts: the block's prompts that still have a row. (prompts,)
        group: each kept row's prompt, as a place in `prompts`. (kept,)
        first: column in which the oldest of them starts.
        most: rows of the prompt with most of them.
        width: length of the longest of their prompts.
    """

    block: DecodeBlock
    rows: Tensor
    prompts: Tensor
    group: Tensor
    first: int
    most: int
    width: int

    @classmethod
    def of(cls, block: DecodeBlock, rows: Tensor) -> BlockPart:
        """The part with these rows, at least one."""
        prompts, group = block.group[rows].unique(return_inverse=True)
        bounds = block.starts[rows].min(), torch.bincount(group).max(), block.prompt_lengths[prompts].max()
        return cls(block, rows, prompts, group, *torch.stack(bounds).tolist())

    @property
    def columns(self) -> int:
        return self.block.position - self.first


def arrange(parts: list[BlockPart]) -> list[DecodeBlock]:
    """Blocks of these parts, oldest first, neighbours joined where it is worth it.

    Uses the parts' blocks up. A block that goes on whole and by itself is returned as it is.
    """
    joins: list[list[BlockPart]] = []
    for part in parts:
        if joins and _worth_joining(joins[-1], part):
            joins[-1].append(part)
        else:
            joins.append([part])
    return [_joined(join) for join in joins]


def _worth_joining(older: list[BlockPart], younger: BlockPart) -> bool:
    apart = _num_scores(older) + _num_scores([younger])
    return _num_scores([*older, younger]) - apart <= _BLOCK_COST


def _num_scores(parts: list[BlockPart]) -> int:
    """Attention scores that a block of these parts computes for its next token, per head."""
    places = sum(len(part.prompts) for part in parts) * max(part.most for part in parts)
    rows = sum(len(part.rows) for part in parts)
    return places * max(part.width for part in parts) + rows * max(part.columns for part in parts)


def _joined(parts: list[BlockPart]) -> DecodeBlock:
    if len(parts) == 1 and len(parts[0].rows) == len(parts[0].block):
        return parts[0].block
    position = max(part.columns for part in parts)
    prompts: LayerTensors = {}
    own: LayerTensors = {}
    # Layer by layer, so that old and new are held together for one call only.
    for call in list(parts[0].block.prompts):
        pairs = zip(*[part.block.prompts.pop(call) for part in parts], strict=True)
        keys, values = [_join_prompts(parts, list(tensors)) for tensors in pairs]
        prompts[call] = (keys, values)
        if position > 0:
            held = [part.block.own.pop(call, None) for part in parts]
            keys, values = [_join_own(parts, [pair and pair[i] for pair in held], position) for i in (0, 1)]
            own[call] = (keys, values)
    offsets = accumulate((len(part.prompts) for part in parts), initial=0)
    return DecodeBlock(
        prompts,
        torch.cat([part.block.prompt_lengths[part.prompts] for part in parts]),
        torch.cat([part.group + offset for part, offset in zip(parts, offsets, strict=False)]),
        own,
        torch.cat([part.block.starts[part.rows] + position - part.block.position for part in parts]),
        position,
    )


def _join_prompts(parts: list[BlockPart], tensors: list[Tensor]) -> Tensor:
    """(prompts, kv heads, longest, size) each -> the same of all"""
    if len(parts) == 1:
        (part,), (tensor,) = parts, tensors
        return tensor if len(part.prompts) == len(tensor) else tensor[:, :, : part.width][part.prompts]
    count, width = sum(len(part.prompts) for part in parts), max(part.width for part in parts)
    joined = tensors[0].new_zeros(count, tensors[0].shape[1], width, tensors[0].shape[3])
    places = joined.split([len(part.prompts) for part in parts])
    for part, tensor, place in zip(parts, tensors, places, strict=True):
        place[:, :, : part.width] = tensor[:, :, : part.width][part.prompts]
    return joined


def _join_own(parts: list[BlockPart], tensors: list[Tensor | None], position: int) -> Tensor:
    """(rows, kv heads, capacity, size) each, None where there is no token yet -> the same of all, ending together"""
    like = next(tensor for tensor in tensors if tensor is not None)
    capacity = FIRST_CAPACITY
    while capacity <= position:
        capacity *= 2
    joined = like.new_empty(sum(len(part.rows) for part in parts), like.shape[1], capacity, like.shape[3])
    places = joined.split([len(part.rows) for part in parts])
    for part, tensor, place in zip(parts, tensors, places, strict=True):
        begin = position - part.columns
        place[:, :, :begin] = 0
        if tensor is not None:
            place[:, :, begin:position] = tensor[part.rows, :, part.first : part.block.position]
    return joined
