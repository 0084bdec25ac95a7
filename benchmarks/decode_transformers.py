"""transformers' `generate`, decoding on command (see `decoding.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from decoding import NUM_TOKENS, Greedy, serve_engine
from machine import peak_memory_mb
from transformers import AutoModelForCausalLM

__all__ = ["Transformers"]


class Transformers:
    """A plain model, with `generate` as it is. Prompts are of one length, so that nothing is padded."""

    def __init__(self, model: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
        self._model.generation_config.eos_token_id = None

    def sample(self, prompts: Sequence[list[int]], n: int) -> list[list[int]]:
        """See `Engine`."""
        out = self._generate(prompts, do_sample=True, temperature=1.0, top_k=0, top_p=1.0, num_return_sequences=n)
        rows: list[list[int]] = out[:, len(prompts[0]) :].tolist()
        return rows

    def greedy(self, prompts: Sequence[list[int]]) -> list[Greedy]:
        """See `Engine`."""
        out = self._generate(prompts, do_sample=False, output_logits=True, return_dict_in_generate=True)
        tokens = out.sequences[:, len(prompts[0]) :]
        columns = [
            logits.log_softmax(-1).gather(1, tokens[:, place, None])[:, 0] for place, logits in enumerate(out.logits)
        ]
        log_probs = torch.stack(columns, 1)
        return [Greedy(ids, values) for ids, values in zip(tokens.tolist(), log_probs.tolist(), strict=True)]

    def peak_memory_mb(self) -> float:
        """See `Engine`."""
        return peak_memory_mb()

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[list[int]], **how: Any) -> Any:
        ids = torch.tensor(prompts)
        return self._model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NUM_TOKENS, pad_token_id=0, **how
        )


if __name__ == "__main__":
    raise SystemExit(serve_engine(Transformers))
