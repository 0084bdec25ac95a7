"""This project's local engine, decoding on command (see `decoding.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from decoding import NUM_SEQUENCES, NUM_TOKENS, PROMPT_TOKENS, Greedy, serve_engine
from machine import peak_memory_mb

from gspo.config.schema import ModelConfig
from gspo.groups import Group, Prompt
from gspo.models import load_actor_tokenizer, load_policy
from gspo.rollout import LocalEngine, SamplingParams

__all__ = ["Ours"]


class Ours:
    """The engine as a run has it. It returns the log-probabilities of what it samples, as training needs them."""

    def __init__(self, model: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        config = ModelConfig(path=str(model))
        tokenizer = load_actor_tokenizer(config)
        policy = load_policy(config, tokenizer, "cpu", PROMPT_TOKENS + NUM_TOKENS, train=False)
        self._engine = LocalEngine(policy, tokenizer, max_num_seqs=NUM_SEQUENCES)
        self._step = 0

    def sample(self, prompts: Sequence[list[int]], n: int) -> list[list[int]]:
        """See `Engine`."""
        self._step += 1
        groups = self._generate(prompts, n, temperature=1.0)
        return [response.token_ids for group in groups for response in group.responses]

    def greedy(self, prompts: Sequence[list[int]]) -> list[Greedy]:
        """See `Engine`."""
        groups = self._generate(prompts, 1, temperature=0.0)
        return [Greedy(response.token_ids, response.log_probs) for group in groups for response in group.responses]

    def peak_memory_mb(self) -> float:
        """See `Engine`."""
        return peak_memory_mb()

    def _generate(self, prompts: Sequence[list[int]], n: int, temperature: float) -> list[Group]:
        asked = [Prompt(f"decode:{number}", tuple(ids), "", "decode") for number, ids in enumerate(prompts)]
        sampling = SamplingParams(NUM_TOKENS, temperature=temperature, ignore_eos=True)
        return self._engine.generate(asked, sampling, n=n, step=self._step)


if __name__ == "__main__":
    raise SystemExit(serve_engine(Ours))
