"""When a response ends, and what becomes of its text.

A response's text is spelled without special tokens, so a stop text that holds one is looked for among the tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.groups import FinishReason, Response
from gspo.models.ends import special_token_texts
from gspo.models.transfer import to_device
from gspo.rollout.engine import SamplingParams
from gspo.rollout.local.samples import Rows

__all__ = ["Endings"]


@dataclass(frozen=True)
class _SpecialStop:
    """A stop text with a special token in it: that token, and the texts before and behind it."""

    before: str
    token: int
    behind: str

    @classmethod
    def of(cls, text: str, special: dict[str, int]) -> _SpecialStop | None:
        """The stop text by its first special token (the longest of several there); None if it has none."""
        found = [(text.index(name), -len(name), name) for name in special if name in text]
        if not found:
            return None
        at, _, name = min(found)
        return cls(text[:at], special[name], text[at + len(name) :])


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
        special = special_token_texts(tokenizer) if sampling.stop else {}
        found = {text: _SpecialStop.of(text, special) for text in sampling.stop}
        self._plain_stops = [text for text, stop in found.items() if stop is None]
        self._special_stops = [stop for stop in found.values() if stop is not None]
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
        text = self._spelled(tail)
        return any(stop in text for stop in self._plain_stops) or bool(self._special_cuts(tail))

    def response(self, token_ids: list[int], log_probs: list[float], entropy: float) -> Response:
        """A response that has ended; its text is cut before the first stop text, and before the end token."""
        at_end = not self._sampling.ignore_eos and token_ids[-1] in self._end_ids
        text = self._spelled(token_ids[:-1] if at_end else token_ids)
        cuts = [text[: text.index(stop)] for stop in self._plain_stops if stop in text]
        cuts += self._special_cuts(token_ids)
        finish: FinishReason = "stop" if cuts or at_end else "length"
        return Response(token_ids, log_probs, min(cuts, key=len) if cuts else text, finish, entropy=entropy)

    def _spelled(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=True))

    def _special_cuts(self, token_ids: list[int]) -> list[str]:
        """The text before each stop text that holds a special token and is among these tokens."""
        cuts = []
        for stop in self._special_stops:
            for place in (place for place, token in enumerate(token_ids) if token == stop.token):
                text = self._spelled(token_ids[:place])
                behind = str(self._tokenizer.decode(token_ids[place + 1 :], skip_special_tokens=False))
                if text.endswith(stop.before) and behind.startswith(stop.behind):
                    cuts.append(text.removesuffix(stop.before))
                    break
        return cuts
