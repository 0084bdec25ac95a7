"""vLLM's engine for CPUs, decoding on command (see `decoding.py`); runs in vLLM's own environment.

Eager and float32, in one process, so that its peak memory is the process's. It does not return log-probabilities and
does not spell tokens, which makes it faster.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from decoding import NUM_SEQUENCES, NUM_TOKENS, PROMPT_TOKENS, Greedy, serve_engine
from machine import peak_memory_mb

__all__ = ["Vllm"]

_CACHE_BYTES = 256 * 2**20  # of keys and values: twice what the sequences need


class Vllm:
    """vLLM with room for all sequences at a time."""

    def __init__(self, model: Path, threads: int) -> None:
        os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_NO_USAGE_STATS": "1"}  # read on import
        import vllm

        if torch.get_num_threads() != threads:  # vLLM takes OMP_NUM_THREADS, and allows no other afterwards
            raise ValueError(f"OMP_NUM_THREADS must be {threads}; torch has {torch.get_num_threads()} threads")

        self._params = vllm.SamplingParams
        self._engine = vllm.LLM(
            model=str(model),
            skip_tokenizer_init=True,
            generation_config="vllm",
            dtype="float32",
            enforce_eager=True,
            max_model_len=PROMPT_TOKENS + NUM_TOKENS,
            max_num_seqs=NUM_SEQUENCES,
            kv_cache_memory_bytes=_CACHE_BYTES,
        )

    def sample(self, prompts: Sequence[list[int]], n: int) -> list[list[int]]:
        """See `Engine`."""
        return [list(out.token_ids) for out in self._generate(prompts, n=n, temperature=1.0)]

    def greedy(self, prompts: Sequence[list[int]]) -> list[Greedy]:
        """See `Engine`."""
        return [
            Greedy(
                list(out.token_ids),
                [entry[token].logprob for entry, token in zip(out.logprobs, out.token_ids, strict=True)],
            )
            for out in self._generate(prompts, temperature=0.0, logprobs=0)
        ]

    def peak_memory_mb(self) -> float:
        """See `Engine`."""
        return peak_memory_mb()

    def _generate(self, prompts: Sequence[list[int]], **how: Any) -> list[Any]:
        params = self._params(max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False, **how)
        asked = [{"prompt_token_ids": ids} for ids in prompts]
        return [out for request in self._engine.generate(asked, params, use_tqdm=False) for out in request.outputs]


if __name__ == "__main__":
    raise SystemExit(serve_engine(Vllm))
