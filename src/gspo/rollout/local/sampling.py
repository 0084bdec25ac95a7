"""Draws tokens from logits with random numbers that belong to a response, not to the batch it is sampled in."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gspo.rollout.engine import SamplingParams

__all__ = ["response_key", "sample_tokens", "uniforms"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
# 48 bits of each draw: products with a total below 1 stay below it in float64, so the last token is never overrun.
_DROPPED_BITS = np.uint64(16)
_LARGEST_DRAW = 1 - 2.0**-48
# Tokens of a block of a large vocabulary.
_BLOCK = 256


def response_key(seed: int, step: int, uid: str, index: int) -> int:
    """The 64-bit key of one response's random draws."""
    text = f"{seed}\0{step}\0{uid}\0{index}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, positions: np.ndarray | int) -> np.ndarray:
    """One draw from (0, 1) for each key, at one position or at each its own. (keys,)

    By the SplitMix64 generator (Steele et al. 2014).
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64 is meant
        state = keys + (np.asarray(positions).astype(np.uint64) + np.uint64(1)) * _GOLDEN
        for shift, factor in _MIX:
            state = (state ^ (state >> shift)) * factor
        state ^= state >> np.uint64(31)
    return ((state >> _DROPPED_BITS).astype(np.float64) + 0.5) / 2.0**48


def sample_tokens(logits: Tensor, draws: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor, Tensor]:
    """Draws one token a row by inverting the distribution function.

    Args:
        logits: float32 or wider; overwritten. (rows, vocabulary)
        draws: uniform numbers. (rows,)
        sampling: temperature and truncation.

    Returns:
        token ids, their log-probabilities, and the entropy of the distribution, in nats; the last two at the
        temperature before truncation (at temperature 1 where it is 0). (rows,) each

    Raises:
        ValueError: a row's logits are NaN or infinite.
    """
    if sampling.temperature > 0:
        logits.div_(sampling.temperature)
    if not bool(logits.amax(-1).isfinite().all()):
        raise ValueError(
            "the policy gives probabilities that are NaN or infinite: training has diverged. Go on from an earlier "
            "checkpoint (trainer.resume_mode=resume_path) with a lower actor_rollout_ref.actor.optim.lr"
        )
    log_probs = logits.log_softmax(-1)
    likeliest = logits.argmax(-1) if sampling.temperature == 0 else None
    probs = torch.exp(log_probs, out=logits)
    entropy = -torch.linalg.vecdot(probs, log_probs)
    tokens = _invert(_truncate(probs, sampling), draws) if likeliest is None else likeliest
    return tokens, log_probs.gather(1, tokens[:, None])[:, 0], entropy


def _invert(weights: Tensor, draws: Tensor) -> Tensor:
    """The token at which the running sum of a row's weights passes its draw's part of their total. (rows,)

    A large vocabulary is summed in blocks: first the block is found, then the token in it, so that running sums in
    float64, which are slow, are of a few hundred numbers.
    """
    vocabulary = weights.shape[1]
    if vocabulary <= _BLOCK:
        return _pass(weights, draws)[0][:, 0]
    rest = -vocabulary % _BLOCK
    blocks = (functional.pad(weights, (0, rest)) if rest else weights).view(len(weights), -1, _BLOCK)
    sums = blocks.sum(-1)
    block, sought, reached = _pass(sums, draws)
    own = sums.gather(1, block).double()
    within = ((sought - reached + own) / own).clamp(0.0, _LARGEST_DRAW)
    chosen = blocks[torch.arange(len(block), device=block.device), block[:, 0]]
    return (block * _BLOCK + _pass(chosen, within[:, 0])[0])[:, 0]


def _pass(weights: Tensor, draws: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where a row's running sum passes a part of its total, that part, and the sum there. (rows, 1) each"""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    sought = (draws * cumulative[:, -1])[:, None]
    index = torch.searchsorted(cumulative, sought, right=True)
    return index, sought, cumulative.gather(1, index)


def _truncate(probs: Tensor, sampling: SamplingParams) -> Tensor:
    """Zeroes what top-k, top-p and min-p leave out, in that order, each on what the one before kept."""
    if 0 < sampling.top_k < probs.shape[-1]:
        smallest = probs.topk(sampling.top_k, -1).values[:, -1:]
        probs = torch.where(probs >= smallest, probs, 0.0)
    if sampling.top_p < 1:
        ordered = probs.sort(-1, descending=True)
        before = ordered.values.cumsum(-1) - ordered.values
        kept = torch.where(before < sampling.top_p * probs.sum(-1, keepdim=True), ordered.values, 0.0)
        probs = torch.zeros_like(probs).scatter_(-1, ordered.indices, kept)
    if sampling.min_p > 0:
        probs = torch.where(probs >= sampling.min_p * probs.amax(-1, keepdim=True), probs, 0.0)
    return probs
