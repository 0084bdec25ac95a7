"""The local engine: samples with the trainer's own weights, in its own process.

Each prompt is prefilled once for all its responses, its keys and values are kept once unless they are few, a response
leaves the batch soon after it has ended, and the next prompts enter it as soon as there is room.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, Prompt
from gspo.models import Inputs, Policy, Read, end_token_ids, pack
from gspo.models.transfer import to_device
from gspo.rollout.engine import SamplingParams
from gspo.rollout.local.cache import DecodeCache
from gspo.rollout.local.endings import Endings
from gspo.rollout.local.prefill import Prefill
from gspo.rollout.local.samples import Rows, Samples
from gspo.rollout.local.sampling import response_key, sample_tokens

__all__ = ["LocalEngine"]

# Ended responses are taken out of the cache when they are this part of it: the copy costs less than carrying them.
_ENDED_PART = 0.2
# Prompts enter when this part of the batch is free: one prefill and one copy serve many.
_FREE_PART = 0.2


class LocalEngine:
    """Samples responses with a policy's own weights.

    Args:
        policy: whose weights sample; they are shared, never copied.
        tokenizer: decodes responses and names the end token.
        seed: of all random draws.
        max_num_seqs: at most this many responses are sampled at a time; groups enter whole, and one always may.
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

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        n: int,
        step: int,
        on_ended: Callable[[int], None] | None = None,
    ) -> list[Group]:
        """See `RolloutEngine`."""
        with self._policy.backbone.sampling():
            return self._generate(prompts, sampling, n, step, on_ended)

    @torch.inference_mode()
    def _generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        n: int,
        step: int,
        on_ended: Callable[[int], None] | None,
    ) -> list[Group]:
        backbone, device = self._policy.backbone, self._policy.device
        endings = Endings(self._tokenizer, self._end_tokens.to(device), sampling)
        samples = Samples([response_key(self._seed, step, p.uid, i) for p in prompts for i in range(n)])
        rows = Rows.start(torch.arange(0), endings.tail, device)
        cache = DecodeCache()
        entered = reported = 0

        def draw(rows: Rows, logits: Tensor) -> None:
            samples.add(rows, *sample_tokens(logits, samples.draws(rows), sampling))
            rows.end(endings.ended(rows))

        while True:
            num_alive = int(rows.alive.sum())
            ended = entered * n - num_alive
            if on_ended is not None and ended > reported:
                on_ended(ended - reported)
                reported = ended
            entering = prompts[entered : entered + self._room(num_alive, len(prompts) - entered, n)]
            if entering:
                first, entered = entered, entered + len(entering)
                prefill, logits = self._prefill(entering)
                new = Rows.start(torch.arange(first * n, entered * n), endings.tail, device)
                draw(new, logits.repeat_interleave(n, 0))
                keep = rows.alive.nonzero()[:, 0]
                cache.exchange(keep, prefill, n)
                del prefill, logits  # the cache has its own copy; this one would stay through all that follows
                rows = rows.pick(keep).join(new)
                continue
            if num_alive == 0:
                break
            # Those at the last position they may have leave at once: they are the widest.
            if num_alive <= (1 - _ENDED_PART) * len(rows) or int(rows.lengths.max()) >= sampling.max_tokens:
                keep = rows.alive.nonzero()[:, 0]
                cache.exchange(keep)
                rows = rows.pick(keep)
            logits = backbone(Inputs(rows.tokens[:, None], cache.position_ids, cache), Read(logits=True)).logits
            cache.advance()
            draw(rows, logits)
            del logits
        responses = [endings.response(*drawn) for drawn in samples.finished()]
        return [Group(prompt, responses[i * n : (i + 1) * n]) for i, prompt in enumerate(prompts)]

    def _room(self, num_alive: int, num_waiting: int, n: int) -> int:
        """For how many waiting groups of `n` to make room now."""
        capacity = max(self._max_num_seqs, n)
        free = capacity - num_alive
        return free // n if free >= min(max(n, _FREE_PART * capacity), num_waiting * n) else 0

    def _prefill(self, prompts: Sequence[Prompt]) -> tuple[Prefill, Tensor]:
        """Runs prompts; also returns the logits behind each. (prompts, vocabulary)"""
        backbone = self._policy.backbone
        row = pack([Group(prompt, []) for prompt in prompts], device=self._policy.device)
        prefill = Prefill(row, backbone.compute.flex)
        last = to_device(torch.tensor([span.responses_start - 1 for span in row.spans]), row.input_ids.device)
        logits = backbone(Inputs(row.input_ids, row.position_ids, prefill), Read(last, logits=True)).logits
        return prefill, logits
