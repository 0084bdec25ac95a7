"""Attention within packed groups: a prompt sees itself, a response sees the whole prompt and itself, nothing else.

Softmax over (prompt, own tokens) is the merge of two softmaxes by their log-sum-exp, so the prompt's keys serve all
responses of the group in one product and no mask is built. The backward pass of a flash kernel needs only the merged
output and log-sum-exp, which makes it exact for each part separately.

On a CPU the parts run on PyTorch's flash kernel, and short sequences as plain products (`dense_attention`); on a GPU
the whole row runs on `flex_attention`, where that serves. Elsewhere, and on a CPU under a soft cap or where a sliding
window cuts a group, each group runs as one masked attention: slower, the same values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from gspo.models.cpu.dense_attention import DenseAttention, DenseBucket, dense_buckets, serves
from gspo.models.flex_attention import FlexAttention, serves_flex_attention
from gspo.models.packing import GroupSpan
from gspo.models.transfer import to_device

__all__ = ["PackedAttention"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Segments share a padded kernel call while the shortest is at least this part of the longest: few calls, few pads.
_BUCKET_FILL = 0.8


@dataclass(frozen=True)
class _Bucket:
    """Segments of similar length, padded to the longest.

    Attributes:
        index: each token's place in the row; 0 in the padding. (segments, length)
        real: what is no padding; None where nothing is padded. (segments, length)
    """

    index: Tensor
    real: Tensor | None

    def take(self, tensor: Tensor) -> Tensor:
        """(heads, tokens, size) -> (segments, heads, length, size), zero in the padding."""
        segments, length = self.index.shape
        taken = tensor.index_select(1, self.index.flatten()).view(tensor.shape[0], segments, length, -1).transpose(0, 1)
        return taken if self.real is None else taken * self.real[:, None, :, None]

    def put(self, into: Tensor, values: Tensor) -> None:
        """Writes (segments, heads, length, size) back to its places in (heads, tokens, size)."""
        flat = values.transpose(0, 1).flatten(1, 2)
        if self.real is None:
            into.index_copy_(1, self.index.flatten(), flat)
        else:
            keep = self.real.flatten()
            into.index_copy_(1, self.index.flatten()[keep], flat[:, keep])


@dataclass(frozen=True)
class PackedAttention:
    """The attention context of a packed row.

    Attributes:
        spans: where the groups stand in the row.
        position_ids: position of each token in its own sequence. (1, tokens)
        flex: run on flex_attention where that serves.
    """

    spans: tuple[GroupSpan, ...]
    position_ids: Tensor
    flex: bool = False
    _dense: dict[int, list[DenseBucket] | None] = field(default_factory=dict, init=False, repr=False, compare=False)

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
        """See `AttentionContext`. The batch is one row."""
        del layer  # all layers see alike
        q, k, v = _of_one_size(query[0], key[0], value[0])
        cut = window is not None and self._longest_sequence > window
        out: Tensor
        if q.device.type == "cpu" and softcap is None and not cut:
            dense = self._dense_buckets(q)
            if dense is not None:
                out = DenseAttention.apply(q, k, v, dense, scale)
            else:
                out = _FlashAttention.apply(q, k, v, self, scale)
        else:
            masked = self._flex.attend if self.flex and serves_flex_attention(q) else self._masked
            out = masked(q, k, v, scale, window if cut else None, softcap)
        return out[..., : value.shape[-1]].transpose(0, 1)[None]

    def _dense_buckets(self, q: Tensor) -> list[DenseBucket] | None:
        """Buckets for dense attention; None where it would not be faster."""
        heads = q.shape[0]
        if heads not in self._dense:
            self._dense[heads] = dense_buckets(self.spans, heads, q) if serves(self.spans) else None
        return self._dense[heads]

    @cached_property
    def _flex(self) -> FlexAttention:
        return FlexAttention(self.spans, self.position_ids)

    @cached_property
    def _longest_sequence(self) -> int:
        return max(span.prompt_length + max(span.response_lengths, default=0) for span in self.spans)

    @cached_property
    def buckets(self) -> list[_Bucket]:
        """All segments (prompts and responses) by length, for their causal attention to themselves."""
        segments: list[tuple[int, int]] = []  # (length, start)
        for span in self.spans:
            segments.append((span.prompt_length, span.start))
            start = span.responses_start
            for length in span.response_lengths:
                if length:
                    segments.append((length, start))
                start += length
        segments.sort(reverse=True)
        buckets: list[list[tuple[int, int]]] = []
        for segment in segments:
            if buckets and segment[0] >= _BUCKET_FILL * buckets[-1][0][0]:
                buckets[-1].append(segment)
            else:
                buckets.append([segment])
        return [self._bucket(members) for members in buckets]

    def _bucket(self, members: list[tuple[int, int]]) -> _Bucket:
        device = self.position_ids.device
        lengths, starts = torch.tensor(members, device=device).unbind(1)
        steps = torch.arange(members[0][0], device=device)
        real = steps < lengths[:, None]
        index = torch.where(real, starts[:, None] + steps, 0)
        return _Bucket(index, None if bool(real.all()) else real)

    def _masked(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, window: int | None, softcap: float | None
    ) -> Tensor:
        """Each group as one attention under its mask, in operations that autograd follows. (heads, tokens, size)"""
        repeats = q.shape[0] // k.shape[0]
        k, v = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
        outs = []
        for span, mask in zip(self.spans, self._masks(window), strict=True):
            group = slice(span.start, span.end)
            scores = q[:, group] @ k[:, group].transpose(1, 2) * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            weights = scores.masked_fill(~mask, float("-inf")).softmax(
                -1, dtype=torch.promote_types(q.dtype, torch.float32)
            )
            outs.append(weights.to(q.dtype) @ v[:, group])
        return torch.cat(outs, 1)

    def _masks(self, window: int | None) -> list[Tensor]:
        """For each group which token attends to which. (tokens of the group, tokens of the group)"""
        masks = []
        for span in self.spans:
            lengths = torch.tensor([span.prompt_length, *span.response_lengths])
            segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            segment = to_device(segment, self.position_ids.device)
            position = self.position_ids[0, span.start : span.end]
            same = segment[:, None] == segment[None, :]
            distance = position[:, None] - position[None, :]
            mask = (same & (distance >= 0)) | (segment[None, :] == 0) & (segment[:, None] > 0)
            masks.append(mask if window is None else mask & (distance < window))
        return masks


def _of_one_size(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values of one size, for kernels that know no other: zeros behind the smaller change no score or sum."""
    more = q.shape[-1] - v.shape[-1]
    if more > 0:
        return q, k, functional.pad(v, (0, more))
    if more < 0:
        return functional.pad(q, (0, -more)), functional.pad(k, (0, -more)), v
    return q, k, v


class _FlashAttention(torch.autograd.Function):
    """(heads, tokens, size) x3 -> (heads, tokens, size), by PyTorch's CPU flash kernel."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: PackedAttention, scale: float) -> Tensor:
        repeats = q.shape[0] // k.shape[0]
        keys, values = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
        out = torch.empty_like(q)
        lse = q.new_empty(*q.shape[:2], 1, dtype=torch.promote_types(q.dtype, torch.float32))  # as the kernel gives it
        for bucket in layout.buckets:
            part, part_lse = _flash(*map(bucket.take, (q, keys, values)), 0.0, True, scale=scale)
            bucket.put(out, part)
            bucket.put(lse, part_lse[..., None])
        for prompt, responses in _cross_parts(layout):
            across, across_lse = _flash(
                q[None, :, responses], keys[None, :, prompt], values[None, :, prompt], 0.0, False, scale=scale
            )
            own_lse = lse[:, responses]
            merged = torch.logaddexp(own_lse, across_lse[0, ..., None])
            own = out[:, responses]
            own.mul_((own_lse - merged).exp_()).add_(across[0] * (across_lse[0, ..., None] - merged).exp_())
            lse[:, responses] = merged
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        q, k, v, out, lse = ctx.saved_tensors
        (grad,) = grads
        repeats = q.shape[0] // k.shape[0]
        keys, values = k.repeat_interleave(repeats, 0), v.repeat_interleave(repeats, 0)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(keys), torch.empty_like(values)
        for bucket in ctx.layout.buckets:
            taken = tuple(map(bucket.take, (grad, q, keys, values, out)))
            parts = _flash_backward(*taken, bucket.take(lse)[..., 0], 0.0, True, scale=ctx.scale)
            for into, part in zip((dq, dk, dv), parts, strict=True):
                bucket.put(into, part)
        for prompt, responses in _cross_parts(ctx.layout):
            part_q, part_k, part_v = _flash_backward(
                *(t[None, :, responses] for t in (grad, q)), *(t[None, :, prompt] for t in (keys, values)),
                *(t[None, :, responses] for t in (out,)), lse[None, :, responses, 0], 0.0, False, scale=ctx.scale,
            )  # fmt: skip
            dq[:, responses] += part_q[0]
            dk[:, prompt] += part_k[0]
            dv[:, prompt] += part_v[0]
        if repeats > 1:
            dk, dv = (t.view(k.shape[0], repeats, *k.shape[1:]).sum(1) for t in (dk, dv))
        return dq, dk, dv, None, None


def _cross_parts(layout: PackedAttention) -> list[tuple[slice, slice]]:
    """For each group the prompt's place and that of all its responses together."""
    return [
        (slice(span.start, span.responses_start), slice(span.responses_start, span.end))
        for span in layout.spans
        if span.end > span.responses_start
    ]
