"""Float64 oracles: every formula once more, as Python loops over single tokens, and batches with every awkward row."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor


@dataclass
class Batch:
    old_log_prob: Tensor
    log_prob: Tensor
    advantages: Tensor
    mask: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.old_log_prob, self.log_prob, self.advantages, self.mask

    def rows(self, start: int, stop: int) -> Batch:
        leaf = self.log_prob[start:stop].detach().clone().requires_grad_()
        return Batch(self.old_log_prob[start:stop], leaf, self.advantages[start:stop], self.mask[start:stop])


def make_batch(seed: int = 0, drift: float = 0.5, per_token: bool = False) -> Batch:
    """Six responses, NaN and infinity under the mask.

    Full, cut, with a masked turn in the middle, of one token, empty, starting masked.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    mask = torch.tensor(
        [
            [1, 1, 1, 1, 1, 1],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 0, 0, 1, 1],
            [1, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
            [0, 1, 1, 1, 0, 0],
        ]
    )
    old = draw(6, 6) - 2
    new = old + drift * draw(6, 6)
    advantages = draw(6, 6) if per_token else draw(6, 1).expand(6, 6).clone()
    hole = ~mask.bool()
    for tensor, filler in ((old, torch.nan), (new, torch.inf), (advantages, torch.nan)):
        tensor[hole] = filler
    return Batch(old, new.requires_grad_(), advantages, mask)


def tokens_of(mask: Tensor) -> list[list[int]]:
    return [[t for t in range(mask.shape[1]) if mask[i, t]] for i in range(mask.shape[0])]


def aggregate(
    losses: dict[tuple[int, int], Tensor],
    mask: Tensor,
    mode: str,
    num_tokens: int | None = None,
    num_sequences: int | None = None,
    scale: float | None = None,
) -> Tensor:
    rows = [row for row in tokens_of(mask) if row]
    num_tokens = sum(map(len, rows)) if num_tokens is None else num_tokens
    num_sequences = len(rows) if num_sequences is None else num_sequences
    total = torch.zeros((), dtype=torch.float64)
    for i, row in enumerate(tokens_of(mask)):
        for t in row:
            share = {
                "token-mean": 1 / max(num_tokens, 1),
                "token-sum": 1.0,
                "seq-mean-token-sum": 1 / max(num_sequences, 1),
                "seq-mean-token-mean": 1 / max(num_sequences, 1) / len(row),
                "seq-mean-token-sum-norm": 1 / max(num_sequences, 1) / (scale or mask.shape[1]),
            }[mode]
            total = total + share * losses[i, t]
    return total


def clip(value: Tensor, low: float, high: float) -> Tensor:
    return torch.clamp(value, low, high)


def token_losses(name: str, batch: Batch, low: float, high: float, bound: float, taus: tuple[float, float]) -> dict:
    """The loss at each written token; of a sequence loss, the sequence's at each of its tokens."""
    old, new, adv, mask = batch.inputs
    losses = {}
    for i, row in enumerate(tokens_of(mask)):
        if not row:
            continue
        seq = torch.exp(sum(new[i, t] - old[i, t] for t in row) / len(row))
        bounded = []
        for t in row:
            d = new[i, t] - old[i, t]
            bounded.append(torch.min(d, d.new_tensor(high)) if adv[i, t] > 0 else torch.max(d, d.new_tensor(-low)))
        geo_mean = torch.exp(sum(bounded) / len(row)) * sum(adv[i, t] for t in row) / len(row)
        for t in row:
            a, r = adv[i, t], torch.exp(new[i, t] - old[i, t])
            if name == "vanilla":
                gain = torch.min(r * a, clip(r, 1 - low, 1 + high) * a)
                losses[i, t] = -(torch.max(gain, bound * a) if a < 0 else gain)
            elif name == "gspo":
                losses[i, t] = -torch.min(seq * a, clip(seq, 1 - low, 1 + high) * a)
            elif name == "gspo_token":
                own = seq.detach() * torch.exp(new[i, t]) / torch.exp(new[i, t]).detach()
                losses[i, t] = -torch.min(own * a, clip(own, 1 - low, 1 + high) * a)
            elif name == "geo_mean":
                losses[i, t] = -geo_mean
            elif name == "cispo":
                losses[i, t] = -clip(r, 1 - low, 1 + high).detach() * a * new[i, t]
            elif name == "sapo":
                tau = taus[0] if a > 0 else taus[1]
                losses[i, t] = -a * 4 / tau / (1 + torch.exp(-tau * (r - 1)))
    return losses


def by_group(scores: list[float], index: list) -> dict:
    groups: dict = {}
    for score, label in zip(scores, index, strict=True):
        groups.setdefault(label, []).append(score)
    return groups


@pytest.fixture(scope="session")
def oracle() -> SimpleNamespace:
    return SimpleNamespace(
        aggregate=aggregate, token_losses=token_losses, tokens_of=tokens_of, by_group=by_group, make_batch=make_batch
    )
