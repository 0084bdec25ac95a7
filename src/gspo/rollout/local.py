"""The local engine: samples with the trainer's own weights, in its own process.

Each prompt is prefilled once for all its responses, its keys and values are kept once, and a response leaves the batch
soon after it has ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, Prompt, Response
from gspo.models import Policy, end_token_ids, output_head, pack
from gspo.models.attention import forward_hidden
from gspo.models.linear import packed_weights
from gspo.rollout.cache import DecodeCache, Prefill
from gspo.rollout.engine import SamplingParams
from gspo.rollout.sampling import response_key, sample_tokens, uniforms

__all__ = ["LocalEngine"]

# Ended responses are taken out of the cache when they are this part of it: the copy costs less than carrying them.
_ENDED_PART = 0.2


class LocalEngine:
    """Samples responses with a policy's own weights.

    Args:
        policy: whose weights sample; they are shared, never copied.
        tokenizer: decodes responses and names the end token.
        seed: of all random draws.
        max_num_seqs: at most this many responses are sampled at a time (whole groups, at least one).
    """

    def __init__(
        self, policy: Policy, tokenizer: PreTrainedTokenizerBase, *, seed: int = 0, max_num_seqs: int = 256
    ) -> None:
        self._policy = policy
        self._tokenizer = tokenizer
        self._seed = seed
        self._max_num_seqs = max_num_seqs
        self._end_tokens = torch.tensor(end_token_ids(policy.model, tokenizer))
        self.version = 0

    def load_weights(self, policy: Policy, version: int) -> None:
        """The weights are the trainer's own: nothing moves, the version is noted."""
        if policy is not self._policy:
            raise ValueError("the local engine samples with the policy it was made with; make a new engine for another")
        self.version = version

    def close(self) -> None:
        """Nothing is held between calls."""

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams, *, n: int, step: int) -> list[Group]:
        """See `RolloutEngine`."""
        model = self._policy.model
        was_training = model.training
        model.eval()
        try:
            groups_at_once = max(1, self._max_num_seqs // n)
            groups: list[Group] = []
            with packed_weights(model):
                for start in range(0, len(prompts), groups_at_once):
                    groups += self._wave(prompts[start : start + groups_at_once], sampling, n, step)
            return groups
        finally:
            model.train(was_training)

    @torch.inference_mode()
    def _wave(self, prompts: Sequence[Prompt], sampling: SamplingParams, n: int, step: int) -> list[Group]:
        model, device = self._policy.model, self._policy.device
        head = output_head(model)
        row = pack([Group(prompt, []) for prompt in prompts], device=device)
        prefill = Prefill(row)
        hidden = forward_hidden(model, row.input_ids, row.position_ids, prefill)[0]
        last = torch.tensor([span.responses_start - 1 for span in row.spans], device=device)
        logits = head.logits(hidden[last]).repeat_interleave(n, 0)
        cache = DecodeCache(prefill, [n] * len(prompts))
        del prefill, hidden
        samples = _Samples.start([response_key(self._seed, step, p.uid, i) for p in prompts for i in range(n)], device)
        while True:
            tokens, log_probs = sample_tokens(logits, samples.draws(), sampling)
            samples.append(tokens, log_probs)
            samples.end(self._ended(samples, tokens, sampling))
            num_alive = int(samples.alive.sum())
            if num_alive == 0 or samples.length >= sampling.max_tokens:
                break
            if num_alive <= (1 - _ENDED_PART) * len(samples.alive):
                keep = samples.alive.nonzero()[:, 0]
                cache.keep(keep)
                tokens = samples.retire(keep)
            hidden = forward_hidden(model, tokens[:, None], cache.position_ids, cache)[:, 0]
            cache.advance()
            logits = head.logits(hidden)
        responses = [self._response(ids, log_p, sampling) for ids, log_p in samples.finished()]
        return [Group(prompt, responses[i * n : (i + 1) * n]) for i, prompt in enumerate(prompts)]

    def _ended(self, samples: _Samples, tokens: Tensor, sampling: SamplingParams) -> Tensor:
        """Which rows end with the token just sampled. (rows,)"""
        ended = torch.zeros_like(samples.alive)
        if not sampling.ignore_eos:
            ended |= torch.isin(tokens, self._end_tokens.to(tokens.device))
        if sampling.stop:
            # A stop text of n bytes is spelled by at most n tokens; one more may hold the bytes before it.
            window = max(len(text.encode()) for text in sampling.stop) + 1
            for row in (samples.alive & ~ended).nonzero()[:, 0].tolist():
                tail = self._tokenizer.decode(samples.tail(row, window), skip_special_tokens=True)
                ended[row] = any(text in tail for text in sampling.stop)
        return ended

    def _response(self, token_ids: list[int], log_probs: list[float], sampling: SamplingParams) -> Response:
        text = self._tokenizer.decode(token_ids, skip_special_tokens=True)
        cuts = [text.index(stop) for stop in sampling.stop if stop in text]
        at_end = not sampling.ignore_eos and token_ids[-1] in self._end_tokens
        return Response(
            token_ids, log_probs, text[: min(cuts)] if cuts else text, "stop" if cuts or at_end else "length"
        )


@dataclass
class _Samples:
    """What has been sampled so far of every response of a wave.

    Attributes:
        keys: random key of each response. (responses,)
        row_of: which response each live row is. (rows,)
        alive: rows that have not ended. (rows,)
        lengths: tokens of each response. (responses,)
    """

    keys: np.ndarray
    row_of: Tensor
    alive: Tensor
    lengths: Tensor
    tokens: list[Tensor] = field(default_factory=list)
    log_probs: list[Tensor] = field(default_factory=list)
    owners: list[Tensor] = field(default_factory=list)

    @classmethod
    def start(cls, keys: list[int], device: torch.device) -> _Samples:
        count = len(keys)
        return cls(
            np.array(keys, dtype=np.uint64),
            torch.arange(count, device=device),
            torch.ones(count, dtype=torch.bool, device=device),
            torch.zeros(count, dtype=torch.long, device=device),
        )

    @property
    def length(self) -> int:
        return len(self.tokens)

    def draws(self) -> Tensor:
        """One uniform number for the next token of every row. (rows,)"""
        keys = self.keys[self.row_of.cpu().numpy()]
        return torch.from_numpy(uniforms(keys, self.length)).to(self.row_of.device)

    def append(self, tokens: Tensor, log_probs: Tensor) -> None:
        self.tokens.append(tokens)
        self.log_probs.append(log_probs)
        self.owners.append(self.row_of)
        self.lengths[self.row_of[self.alive]] += 1

    def end(self, ended: Tensor) -> None:
        self.alive = self.alive & ~ended

    def retire(self, keep: Tensor) -> Tensor:
        """Goes on with these rows only; returns their last tokens. (kept,)"""
        self.row_of, self.alive = self.row_of[keep], self.alive[keep]
        return self.tokens[-1][keep]

    def tail(self, row: int, window: int) -> list[int]:
        """The last tokens of a live row."""
        owner = self.row_of[row]
        recent = zip(self.tokens[-window:], self.owners[-window:], strict=True)
        return [int(tokens[owners == owner]) for tokens, owners in recent]

    def finished(self) -> list[tuple[list[int], list[float]]]:
        """Token ids and log-probabilities of every response, without what was drawn after its end."""
        count, longest = len(self.keys), self.length
        ids = torch.zeros(count, longest, dtype=torch.long)
        log_probs = torch.zeros(count, longest)
        for position, (tokens, values, owners) in enumerate(zip(self.tokens, self.log_probs, self.owners, strict=True)):
            ids[owners.cpu(), position] = tokens.cpu()
            log_probs[owners.cpu(), position] = values.float().cpu()
        return [
            (ids[row, :length].tolist(), log_probs[row, :length].tolist())
            for row, length in enumerate(self.lengths.tolist())
        ]
