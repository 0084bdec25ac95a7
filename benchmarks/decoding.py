"""Decoding alone: what every engine is asked for, what it answers, and whether two of them compute the same.

An engine has a process of its own (`decode_ours.py`, `decode_transformers.py`, `decode_vllm.py`). Commands: `decode P`
samples `NUM_SEQUENCES` responses of the first P prompts, as many of each; `check` decodes a few prompts greedily. This
file needs nothing but Python.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from serving import Replies, serve

__all__ = [
    "NUM_SEQUENCES",
    "NUM_TOKENS",
    "PROMPT_TOKENS",
    "Engine",
    "Greedy",
    "compare",
    "decode",
    "make_prompts",
    "serve_engine",
]

NUM_SEQUENCES, PROMPT_TOKENS, NUM_TOKENS = 32, 8, 64
TOLERANCE = 1e-4  # of a log-probability of about -10: float32 sums in another order leave less than 1e-5
_CHECKED = 4  # prompts: few, so that the check does not decide a process's peak memory


@dataclass(frozen=True)
class Greedy:
    """A response that took the likeliest token every time.

    Attributes:
        token_ids: its tokens.
        log_probs: the log-probability of each.
    """

    token_ids: list[int]
    log_probs: list[float]


class Engine(Protocol):
    """An engine that samples with a model's weights in float32."""

    def sample(self, prompts: Sequence[list[int]], n: int) -> list[list[int]]:
        """`n` responses of each prompt at temperature 1, `NUM_TOKENS` long whatever the tokens."""
        ...

    def greedy(self, prompts: Sequence[list[int]]) -> list[Greedy]:
        """The greedy response of each prompt, `NUM_TOKENS` long."""
        ...

    def peak_memory_mb(self) -> float:
        """Largest resident memory so far, in MB of 10^6 bytes."""
        ...


def make_prompts(vocab_size: int, first: int) -> list[list[int]]:
    """Random prompts without the tokens below `first`, which are special."""
    draw = random.Random(0)
    return [[draw.randrange(first, vocab_size) for _ in range(PROMPT_TOKENS)] for _ in range(NUM_SEQUENCES)]


def decode(engine: Engine, prompts: Sequence[list[int]]) -> dict[str, Any]:
    """Figures of one batch of `NUM_SEQUENCES` responses, prefill included.

    Raises:
        ValueError: the engine gave other numbers of responses or tokens.
    """
    start = time.perf_counter()
    responses = engine.sample(prompts, NUM_SEQUENCES // len(prompts))
    seconds = time.perf_counter() - start
    lengths = [len(response) for response in responses]
    if lengths != [NUM_TOKENS] * NUM_SEQUENCES:
        raise ValueError(f"asked for {NUM_SEQUENCES} responses of {NUM_TOKENS} tokens, got lengths {lengths}")
    return {"seconds": seconds, "tokens_per_s": sum(lengths) / seconds, "peak_memory_mb": engine.peak_memory_mb()}


def serve_engine(make: Callable[[Path, int], Engine], arguments: Sequence[str] | None = None) -> int:
    """The command of every engine's process.

    Args:
        make: makes the engine, of a model's folder and a number of threads.
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description="Serve an engine's decoding.")
    parser.add_argument("--model", type=Path, required=True, help="a Hugging Face folder")
    parser.add_argument("--prompts", type=Path, required=True, help="a JSON file of lists of token ids")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    prompts: list[list[int]] = json.loads(options.prompts.read_text(encoding="utf-8"))
    with Replies.open() as replies:
        engine = make(options.model, options.threads)
        handlers = {
            "decode": lambda count: decode(engine, prompts[: int(count)]),
            "check": lambda _: {"responses": [vars(response) for response in engine.greedy(prompts[:_CHECKED])]},
        }
        serve(handlers, replies)
    return 0


def compare(name: str, ours: Sequence[Greedy], theirs: Sequence[Greedy]) -> dict[str, Any]:
    """How far two engines agree on the same prompts.

    Where two tokens are equally likely to rounding, each engine may take another, and what follows differs rightly:
    each response is compared up to its first different token, and that token's log-probability must agree too.

    Args:
        name: of the other engine, for the message.
        ours, theirs: the greedy responses of the same prompts.

    Returns:
        `tokens`, how many were compared, `of`, how many there are, and `largest_difference` of a log-probability.

    Raises:
        ValueError: a log-probability differs by more than rounding explains, or the most part was not compared.
    """
    differences = []
    for own, other in zip(ours, theirs, strict=True):
        for place, (token, same) in enumerate(zip(own.token_ids, other.token_ids, strict=True)):
            differences.append(abs(own.log_probs[place] - other.log_probs[place]))
            if token != same:
                break
    found = {
        "tokens": len(differences),
        "of": sum(len(own.token_ids) for own in ours),
        "largest_difference": max(differences),
    }
    if not all(difference <= TOLERANCE for difference in differences) or found["tokens"] < found["of"] / 2:
        raise ValueError(f"{name} and this project do not compute the same: {json.dumps(found)}")
    return found
