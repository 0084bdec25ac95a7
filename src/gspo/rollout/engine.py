"""What a rollout engine is: prompts in, groups of sampled responses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gspo.groups import Group, Prompt
from gspo.models import Policy

__all__ = ["RolloutEngine", "SamplingParams"]


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn.

    Attributes:
        max_tokens: a response is cut after this many tokens.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_p: keep the likeliest tokens whose probabilities sum to at least this; 1 keeps all.
        top_k: keep this many of the likeliest tokens; -1 keeps all.
        min_p: keep tokens at least this many times as likely as the likeliest; 0 keeps all.
        stop: texts that end a response; the response's text is cut before the first of them.
        ignore_eos: let responses run on to `max_tokens` past end tokens.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        checks = [
            (self.max_tokens >= 1, "max_tokens", "at least 1"),
            (self.temperature >= 0, "temperature", "0 (greedy) or more"),
            (0 < self.top_p <= 1, "top_p", "in (0, 1]"),
            (self.top_k == -1 or self.top_k >= 1, "top_k", "-1 (all) or at least 1"),
            (0 <= self.min_p <= 1, "min_p", "in [0, 1]"),
            (all(self.stop), "stop", "texts that are not empty"),
        ]
        for right, name, expected in checks:
            if not right:
                raise ValueError(f"sampling: {name} is {getattr(self, name)}; it must be {expected}")


class RolloutEngine(Protocol):
    """Samples responses with the policy's weights."""

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        n: int,
        step: int,
        on_ended: Callable[[int], None] | None = None,
    ) -> list[Group]:
        """Samples `n` responses for each prompt, in the prompts' order.

        Random draws depend on the engine's seed, `step`, the prompt's uid, the response's number and the position
        only: never on what else is in the batch. `on_ended` is called with the number of responses that have ended
        since it was called last; all have been told of on return.
        """
        ...

    def load_weights(self, policy: Policy, version: int) -> None:
        """Takes over the policy's current weights; `version` is the step after which they are current."""
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
        ...
