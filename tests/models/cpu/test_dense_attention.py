"""The buckets of dense attention: every token of a row is in one of them, padded no further than said."""

from __future__ import annotations

import random

import torch

from gspo.models.cpu.dense_attention import DenseAttention, dense_buckets, serves
from gspo.models.packing import GroupSpan


def spans_of(*groups: tuple[int, tuple[int, ...]]) -> list[GroupSpan]:
    spans, start = [], 0
    for prompt, lengths in groups:
        spans.append(GroupSpan(start, prompt, lengths))
        start = spans[-1].end
    return spans


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, spans: list[GroupSpan], scale: float) -> torch.Tensor:
    """Each segment by itself, token by token."""
    out = torch.zeros_like(q)
    repeats = len(q) // len(k)
    for span in spans:
        prompt = list(range(span.start, span.responses_start))
        segments, start = [([], prompt)], span.responses_start
        for length in span.response_lengths:
            segments.append((prompt, list(range(start, start + length))))
            start += length
        for before, own in segments:
            for number, token in enumerate(own):
                seen = [*before, *own[: number + 1]]
                for head in range(len(q)):
                    weights = (k[head // repeats, seen] @ q[head, token] * scale).softmax(0)
                    out[head, token] = weights @ v[head // repeats, seen]
    return out


def test_values_and_gradients_of_rows_of_any_lengths() -> None:
    draw = random.Random(5)
    for _ in range(8):
        groups = [
            (draw.randint(1, 12), tuple(draw.randint(0, 9) for _ in range(draw.randint(0, 4))))
            for _ in range(draw.randint(1, 4))
        ]
        spans = spans_of(*groups)
        tokens = spans[-1].end
        q = torch.randn(4, tokens, 3, dtype=torch.float64, requires_grad=True)
        k, v = (torch.randn(2, tokens, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
        upstream = torch.randn(4, tokens, 3, dtype=torch.float64)
        ours = DenseAttention.apply(q, k, v, dense_buckets(spans, 4, q), 0.7)
        expected = plain(q, k, v, spans, 0.7)
        torch.testing.assert_close(ours, expected, atol=1e-12, rtol=1e-12)
        for mine, theirs in zip(
            torch.autograd.grad(ours, (q, k, v), upstream),
            torch.autograd.grad(expected, (q, k, v), upstream),
            strict=True,
        ):
            torch.testing.assert_close(mine, theirs, atol=1e-11, rtol=1e-11)


def test_segments_of_like_lengths_share_a_bucket_and_others_do_not() -> None:
    spans = spans_of((8, (10, 10, 7, 3)), (8, (10,)))
    shapes = sorted(bucket.shape for bucket in dense_buckets(spans, 2, torch.zeros(1)))
    assert shapes == [(1, 3, 8), (2, 8, 0), (4, 10, 8)]


def test_the_scores_of_one_call_are_bounded() -> None:
    spans = spans_of((100, (100,) * 64))
    buckets = dense_buckets(spans, 32, torch.zeros(1))
    assert sum(bucket.shape[0] for bucket in buckets) == 65
    assert all(n * 32 * own * (own + before) <= 8 * 2**20 for n, own, before in (b.shape for b in buckets))


def test_long_sequences_and_those_of_many_lengths_are_left_to_the_flash_kernel() -> None:
    assert serves(spans_of((256, (256,) * 4)))
    assert not serves(spans_of((256, (257,) * 4)))
    assert not serves(spans_of((4, ()), (513, ())))
    assert serves(spans_of((8, (60, 61, 62, 63, 64, 63, 62, 61))))
    assert not serves(spans_of((8, (1, 2, 4, 8, 16, 32, 64, 128))))
