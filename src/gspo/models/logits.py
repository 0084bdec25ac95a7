"""Log-probabilities and entropies of given tokens from hidden states, without a [tokens, vocabulary] tensor.

Logits are formed for a chunk of tokens at a time, forward and again backward; what is kept between is one log-sum-exp
and one entropy per token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gspo.models.cpu.linear import linear
from gspo.models.precision import wide_product

__all__ = ["OutputHead", "token_log_probs"]

# One chunk of logits: enough rows that the matrix products run at full speed, small next to a model's own memory. A GPU
# needs more rows to fill its units; the figure is of its size, not measured.
_CHUNK_BYTES = 64 * 2**20
_GPU_CHUNK_BYTES = 512 * 2**20
_MIN_CHUNK_ROWS = 16
# The head's gradient is added up in strips of this many tokens of the vocabulary, so that what is added stays small.
_STRIP = 8192


@dataclass(frozen=True)
class OutputHead:
    """The linear map from hidden states to logits, with what a model does to them afterwards.

    Attributes:
        weight: (vocabulary, hidden size)
        bias: (vocabulary,) or None
        softcap: logits become softcap * tanh(logit / softcap) (Gemma 2); None leaves them.
        multiplier: factor on the logits, before the soft cap (Cohere's `logit_scale`, one over Granite's
            `logits_scaling`).
        packed: the weight laid out for sampling, where there is such a copy.
        products: the type of the factors of a product, where it is not the weight's own (`precision`).
        vocabulary: there are logits of tokens below this number only; None: of all rows of the weight. Models have more
            rows than their tokenizer has tokens, for the speed of products; no text holds the rest.
    """

    weight: Tensor
    bias: Tensor | None = None
    softcap: float | None = None
    multiplier: float = 1.0
    packed: Tensor | None = None
    products: torch.dtype | None = None
    vocabulary: int | None = None

    def cast(self) -> OutputHead:
        """The head with its weight in the type of factors: a copy, to compute with more than once."""
        return self if self.products is None else replace(self, weight=self.weight.to(self.products))

    @property
    def rows(self) -> Tensor:
        """The weight's rows of the tokens that have logits."""
        return self.weight[: self.vocabulary]

    def times(self, rows: Tensor, factors: Tensor, bias: Tensor | None = None) -> Tensor:
        """rows @ factors.T + bias, as this head computes. (rows, inputs), (outputs, inputs) -> (rows, outputs)"""
        if self.products is None:
            return linear(rows, factors, bias)
        product = wide_product(rows, factors, self.products)
        return product if bias is None else product + bias

    def logits(self, hidden: Tensor) -> Tensor:
        """float32 (or wider) logits. (tokens, hidden size) -> (tokens, vocabulary)"""
        if self.packed is not None:  # laid out as a whole
            logits = self.times(hidden, self.packed, self.bias)[:, : self.vocabulary]
        else:
            logits = self.times(hidden, self.rows, None if self.bias is None else self.bias[: self.vocabulary])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.multiplier != 1.0:
            logits = logits * self.multiplier
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def token_log_probs(
    head: OutputHead, hidden: Tensor, targets: Tensor, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and the entropy of its distribution, both at `temperature`.

    Args:
        head: the output head.
        hidden: states that predict the targets. (tokens, hidden size)
        targets: token ids. (tokens,)
        temperature: the logits are divided by it.
        with_entropy: compute entropies (and let gradients through them); otherwise they are zero.

    Returns:
        log-probabilities and entropies in nats. (tokens,), (tokens,)
    """
    log_probs, entropy = _TokenLogProbs.apply(hidden, head.weight, head.bias, targets, head, temperature, with_entropy)
    return log_probs, entropy


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        head: OutputHead,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        count, working = len(hidden), head.cast()
        log_probs, entropy, lse = (torch.zeros(count, dtype=wide, device=hidden.device) for _ in range(3))
        for rows in _chunks(count, weight):
            logits, chosen = _logits(working, hidden[rows], temperature), targets[rows, None]
            log_p = logits.log_softmax(-1)
            log_probs[rows] = log_p.gather(1, chosen)[:, 0]
            lse[rows] = logits.gather(1, chosen)[:, 0] - log_probs[rows]
            del logits
            if with_entropy:
                entropy[rows] = -torch.linalg.vecdot(log_p.exp(), log_p)
        ctx.save_for_backward(hidden, weight, bias, targets, entropy, lse)
        ctx.set_materialize_grads(False)  # an entropy that is only looked at has no gradient to compute
        ctx.head, ctx.temperature = head, temperature
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_log_probs, grad_entropy = grads
        hidden, weight, bias, targets, entropy, lse = ctx.saved_tensors
        if grad_log_probs is None:
            grad_log_probs = torch.zeros_like(entropy)
        head: OutputHead = ctx.head.cast()
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        for rows in _chunks(len(hidden), weight):
            logits = _logits(head, hidden[rows], ctx.temperature)
            slope = 1 if head.softcap is None else 1 - (logits * (ctx.temperature / head.softcap)).square()
            log_p = logits.sub_(lse[rows, None])
            # d log p_y / dz = 1[y] - p ; dH / dz = -p (log p + H)
            if grad_entropy is not None:
                factor = -grad_log_probs[rows, None] - grad_entropy[rows, None] * (log_p + entropy[rows, None])
                grad = log_p.exp_().mul_(factor)
            else:
                grad = log_p.exp_().mul_(-grad_log_probs[rows, None])
            grad.scatter_add_(1, targets[rows, None], grad_log_probs[rows, None])
            if ctx.temperature != 1.0:
                grad /= ctx.temperature
            if head.softcap is not None:
                grad *= slope
            if head.multiplier != 1.0:
                grad *= head.multiplier
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = head.times(grad, head.rows.t())
            if grad_weight is not None:
                known = grad_weight[: head.vocabulary]  # the rest has no part in the loss
                for into, strip in zip(known.split(_STRIP), grad.split(_STRIP, 1), strict=True):
                    into += head.times(strip.t(), hidden[rows].t())
            if grad_bias is not None:
                grad_bias[: head.vocabulary] += grad.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _logits(head: OutputHead, hidden: Tensor, temperature: float) -> Tensor:
    logits = head.logits(hidden)
    return logits if temperature == 1.0 else logits.div_(temperature)


def _chunks(count: int, weight: Tensor) -> list[slice]:
    """Rows of each chunk of logits: as few chunks as can be, of about the same size."""
    room = _GPU_CHUNK_BYTES if weight.is_cuda else _CHUNK_BYTES
    most = max(_MIN_CHUNK_ROWS, room // (4 * weight.shape[0]))
    size = -(-count // -(-count // most)) if count else 1
    return [slice(start, start + size) for start in range(0, count, size)]
