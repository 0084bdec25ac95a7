"""What has been sampled: the rows of the running batch, and every token drawn so far.

What the host knows of a row stays with it, so that a draw does not wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gspo.models.transfer import to_device
from gspo.rollout.local.sampling import uniforms

__all__ = ["Rows", "Samples"]

_NO_TOKEN = -1


@dataclass
class Rows:
    """Responses that are being sampled.

    Attributes:
        responses: number of each row's response; on the host. (rows,)
        lengths: tokens drawn of each; on the host. (rows,)
        alive: which have not ended. (rows,)
        tokens: the last of them. (rows,)
        tails: the last few, the latest last, -1 where there is none yet. (rows, few)
    """

    responses: Tensor
    lengths: Tensor
    alive: Tensor
    tokens: Tensor
    tails: Tensor

    @classmethod
    def start(cls, responses: Tensor, tail: int, device: torch.device) -> Rows:
        """Rows of which nothing is drawn yet; their last `tail` tokens will be at hand."""
        count = len(responses)
        alive = torch.ones(count, dtype=torch.bool, device=device)
        tokens = torch.zeros(count, dtype=torch.long, device=device)
        tails = torch.full((count, tail), _NO_TOKEN, device=device)
        return cls(responses, torch.zeros_like(responses), alive, tokens, tails)

    def __len__(self) -> int:
        return len(self.responses)

    def append(self, tokens: Tensor) -> None:
        """One more token for every row. (rows,)"""
        self.tokens = tokens
        self.lengths = self.lengths + 1
        if self.tails.shape[1]:
            self.tails = torch.cat([self.tails[:, 1:], tokens[:, None]], 1)

    def end(self, ended: Tensor) -> None:
        """These have ended, if they had not before. (rows,)"""
        self.alive = self.alive & ~ended

    def last_few(self) -> list[list[int]]:
        """The last few tokens of each row, fewer where it has no more."""
        return [[token for token in tail if token != _NO_TOKEN] for tail in self.tails.tolist()]

    def pick(self, keep: Tensor) -> Rows:
        """These rows only. (kept,)"""
        known = keep.cpu()
        return Rows(*(tensor[known if tensor.is_cpu else keep] for tensor in self._tensors))

    def join(self, others: Rows) -> Rows:
        """These rows, and others behind them."""
        return Rows(*(torch.cat(pair) for pair in zip(self._tensors, others._tensors, strict=True)))

    @property
    def _tensors(self) -> tuple[Tensor, ...]:
        return self.responses, self.lengths, self.alive, self.tokens, self.tails


class Samples:
    """Every token drawn, and the random numbers they are drawn with.

    Args:
        keys: random key of each response.
    """

    def __init__(self, keys: list[int]) -> None:
        self._keys = np.array(keys, dtype=np.uint64)
        self._drawn: list[tuple[Tensor, Tensor, Tensor, Tensor, Tensor]] = []

    def draws(self, rows: Rows) -> Tensor:
        """One uniform number for the next token of every row. (rows,)"""
        keys = self._keys[rows.responses.numpy()]
        return to_device(torch.from_numpy(uniforms(keys, rows.lengths.numpy())), rows.alive.device)

    def add(self, rows: Rows, tokens: Tensor, log_probs: Tensor, entropies: Tensor) -> None:
        """The next token of every row, with what `sample_tokens` says of it; an ended row's counts for nothing."""
        self._drawn.append((rows.responses, rows.alive, tokens, log_probs, entropies))
        rows.append(tokens)

    def finished(self) -> list[tuple[list[int], list[float], float]]:
        """Token ids, log-probabilities and the mean entropy of every response."""
        if not self._drawn:
            return []
        columns = (torch.cat(column).cpu() for column in zip(*self._drawn, strict=True))
        owners, counted, tokens, log_probs, entropies = columns
        owners = owners[counted]
        counts = torch.bincount(owners, minlength=len(self._keys))
        sums = torch.bincount(owners, entropies[counted].double(), minlength=len(self._keys))
        lengths = counts.tolist()
        order = owners.argsort(stable=True)
        ids = tokens[counted][order].split(lengths)
        values = log_probs.float()[counted][order].split(lengths)
        means = (sums / counts).tolist()  # each response has at least one token
        return [(a.tolist(), b.tolist(), mean) for a, b, mean in zip(ids, values, means, strict=True)]
