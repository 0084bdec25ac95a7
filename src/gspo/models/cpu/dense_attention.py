"""Attention within packed groups by plain batched products, for short sequences on a CPU.

PyTorch's flash kernel works in small blocks that pay off where scores would fill the memory. Where a response and its
prompt have some hundred tokens, whole matrices of scores of many responses at a time are faster. Scores are formed
again in the backward pass; nothing of their size is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gspo.models.packing import GroupSpan

__all__ = ["DenseAttention", "DenseBucket", "dense_buckets", "serves"]

_Segment = tuple[int, int, int, int]  # prompt's length, own length, prompt's start, own start

# A prompt and a response together; beyond, the flash kernel is the faster one.
_LONGEST = 512

# Segments share a call while the shortest is at least this part of the longest: few calls, few pads.
_FILL = 0.7

# Scores of one call, over all heads.
_MAX_SCORES = 8 * 2**20

# Responses of a bucket at least, on average; fewer are too few to fill a call.
_FULL = 4


def serves(spans: Sequence[GroupSpan]) -> bool:
    """Whether this is the faster way: all sequences are short, and most have neighbours of their own lengths."""
    if any(span.prompt_length + max(span.response_lengths, default=0) > _LONGEST for span in spans):
        return False
    segments = [segment for segment in _segments(spans) if segment[0]]
    return len(segments) >= _FULL * sum(1 for _ in _grouped(segments, heads=1))


@dataclass(frozen=True)
class DenseBucket:
    """Segments (prompts, or responses behind their prompts) of similar lengths, padded to the longest.

    Attributes:
        queries: places in the row of the segments' own tokens; 0 in the padding. (segments * own,)
        keys: places of what they see, the prompt and then themselves. (segments * (prompt + own),)
        real: places within `queries` that are no padding; None where nothing is padded. (real,)
        hidden: 0 where a token sees another and minus infinity elsewhere; the first axis is 1 where all segments have
            the same. (segments or 1, own, prompt + own)
        shape: segments, own tokens, prompt tokens.
    """

    queries: Tensor
    keys: Tensor
    real: Tensor | None
    hidden: Tensor
    shape: tuple[int, int, int]

    def take(self, tensor: Tensor, where: Tensor) -> Tensor:
        """(heads, tokens, size) -> (heads * segments, tokens of a segment, size)"""
        heads, _, size = tensor.shape
        return tensor.index_select(1, where).view(heads * self.shape[0], -1, size)

    def probabilities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Softmax of the scores; queries are scaled. (heads * segments, own, prompt + own)"""
        segments = self.shape[0]
        scores = torch.bmm(queries, keys.transpose(1, 2))
        scores.view(-1, segments, *scores.shape[1:]).add_(self.hidden)
        return scores.softmax(-1)

    def put(self, into: Tensor, values: Tensor) -> None:
        """Writes (heads * segments, own, size) to its places in (heads, tokens, size)."""
        flat = values.view(into.shape[0], -1, into.shape[2])
        if self.real is None:
            into.index_copy_(1, self.queries, flat)
        else:
            into.index_copy_(1, self.queries[self.real], flat.index_select(1, self.real))

    def add(self, into: Tensor, values: Tensor) -> None:
        """Adds (heads * segments, prompt + own, size) to its places; padding is zero."""
        into.index_add_(1, self.keys, values.view(into.shape[0], -1, into.shape[2]))


def dense_buckets(spans: Sequence[GroupSpan], heads: int, like: Tensor) -> list[DenseBucket]:
    """All segments of a row, in buckets.

    Args:
        spans: where the groups stand.
        heads: number of query heads.
        like: of the type and device of the scores.
    """
    return [_bucket(members, like) for members in _grouped(_segments(spans), heads)]


def _segments(spans: Sequence[GroupSpan]) -> list[_Segment]:
    """Prompts and responses, the longest prompts first."""
    segments: list[_Segment] = []
    for span in spans:
        segments.append((0, span.prompt_length, span.start, span.start))
        start = span.responses_start
        for length in span.response_lengths:
            if length:
                segments.append((span.prompt_length, length, span.start, start))
            start += length
    return sorted(segments, reverse=True)


def _grouped(segments: list[_Segment], heads: int) -> Iterator[list[_Segment]]:
    members: list[_Segment] = []
    shortest = longest = 0
    for segment in segments:
        prompt, own = segment[:2]
        if members:
            shortest, longest = min(shortest, own), max(longest, own)
            first = members[0][0]
            fits = prompt >= _FILL * first and bool(prompt) == bool(first) and shortest >= _FILL * longest
            room = (len(members) + 1) * heads * longest * (longest + prompt) <= _MAX_SCORES
            if not (fits and room):
                yield members
                members = []
        if not members:
            shortest = longest = own
        members.append(segment)
    if members:
        yield members


def _bucket(members: list[_Segment], like: Tensor) -> DenseBucket:
    prompts, owns, prompt_starts, own_starts = torch.tensor(members, device=like.device).unbind(1)
    prompt, own = int(prompts.max()), int(owns.max())
    steps, before = torch.arange(own, device=like.device), torch.arange(prompt, device=like.device)
    own_real, prompt_real = steps < owns[:, None], before < prompts[:, None]
    queries = torch.where(own_real, own_starts[:, None] + steps, 0)
    keys = torch.cat([torch.where(prompt_real, prompt_starts[:, None] + before, 0), queries], 1)
    causal = (steps <= steps[:, None]).expand(len(members), -1, -1)
    seen = torch.cat([prompt_real[:, None].expand(-1, own, -1), causal], 2)
    if bool(prompt_real.all()):
        seen = seen[:1]
    hidden = torch.zeros(seen.shape, dtype=like.dtype, device=like.device).masked_fill_(~seen, float("-inf"))
    padded = not bool(own_real.all())
    real = own_real.flatten().nonzero()[:, 0] if padded else None
    return DenseBucket(queries.flatten(), keys.flatten(), real, hidden, (len(members), own, prompt))


class DenseAttention(torch.autograd.Function):
    """(heads, tokens, size) x3 -> (heads, tokens, size)"""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, buckets: list[DenseBucket], scale: float) -> Tensor:
        repeats = q.shape[0] // k.shape[0]
        queries = q * scale
        keys, values = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
        out = torch.empty_like(queries)
        for bucket in buckets:
            probs = bucket.probabilities(bucket.take(queries, bucket.queries), bucket.take(keys, bucket.keys))
            bucket.put(out, torch.bmm(probs, bucket.take(values, bucket.keys)))
        ctx.save_for_backward(q, k, v)
        ctx.buckets, ctx.scale = buckets, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v = ctx.saved_tensors
        repeats = q.shape[0] // k.shape[0]
        queries = q * ctx.scale
        keys, values = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
        grad = grads[0].contiguous()
        dq = torch.empty_like(queries, memory_format=torch.contiguous_format)
        dk, dv = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (keys, values))
        for bucket in ctx.buckets:
            own, seen = bucket.take(queries, bucket.queries), bucket.take(keys, bucket.keys)
            upstream = bucket.take(grad, bucket.queries)
            if bucket.real is not None:  # padding repeats the row's first token, whose gradient is not its own
                upstream = upstream.view(len(q), -1, q.shape[2])
                kept = upstream.new_zeros(upstream.shape[1]).index_fill_(0, bucket.real, 1.0)
                upstream = (upstream * kept[:, None]).view(own.shape)
            probs = bucket.probabilities(own, seen)
            bucket.add(dv, torch.bmm(probs.transpose(1, 2), upstream))
            of_probs = torch.bmm(upstream, bucket.take(values, bucket.keys).transpose(1, 2))
            of_scores = torch._softmax_backward_data(of_probs, probs, -1, probs.dtype)
            bucket.put(dq, torch.bmm(of_scores, seen).mul_(ctx.scale))
            bucket.add(dk, torch.bmm(of_scores.transpose(1, 2), own))
        if repeats > 1:
            dk, dv = (t.view(k.shape[0], repeats, *k.shape[1:]).sum(1) for t in (dk, dv))
        return dq, dk, dv, None, None
