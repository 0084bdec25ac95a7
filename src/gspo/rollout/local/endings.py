"""When a response ends, and what becomes of its text."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.groups import Response
from gspo.models.transfer import to_device
from gspo.rollout.engine import SamplingParams
from gspo.rollout.local.samples import Rows

__all__ = ["Endings"]


class Endings:
    """The ends of responses: an end token, a stop text, or the number of tokens.

    Args:
        tokenizer: spells responses.
        end_tokens: ids that end a response. (ends,)
        sampling: stop texts, length, and whether end tokens count.

    Attributes:
        tail: this many last tokens of a row show whether a stop text has come.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end_tokens: Tensor, sampling: SamplingParams) -> None:
        self._tokenizer = tokenizer
        self._end_tokens = end_tokens
        self._end_ids = frozenset(end_tokens.tolist())
        self._sampling = sampling
        # A stop text of n bytes is spelled by at most n tokens; one more may hold the bytes before it.
        self.tail = max((len(text.encode()) + 1 for text in sampling.stop), default=0)

    def ended(self, rows: Rows) -> Tensor:
        """Which rows end with their last token. (rows,)"""
        ended = to_device(rows.lengths >= self._sampling.max_tokens, rows.alive.device)
        if not self._sampling.ignore_eos:
            ended |= torch.isin(rows.tokens, self._end_tokens)
        if self._sampling.stop:
            running = (rows.alive & ~ended).tolist()
            stopped = [runs and self._stops(tail) for runs, tail in zip(running, rows.last_few(), strict=True)]
            ended |= to_device(torch.tensor(stopped, dtype=torch.bool), ended.device)
        return ended

    def _stops(self, tail: list[int]) -> bool:
        """Whether a stop text is among these tokens."""
        text = self._tokenizer.decode(tail, skip_special_tokens=True)
        return any(stop in text for stop in self._sampling.stop)

    def response(self, token_ids: list[int], log_probs: list[float]) -> Response:
        """A response that has ended; its text is cut before the first stop text."""
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in self._sampling.stop if stop in text]
        at_end = not self._sampling.ignore_eos and token_ids[-1] in self._end_ids
        return Response(
            token_ids, log_probs, text[: min(cuts)] if cuts else text, "stop" if cuts or at_end else "length"
        )
