"""What a rollout engine is: prompts in, groups of sampled responses out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, Prompt
from gspo.methods import ENGINES
from gspo.models import Policy
from gspo.registered import add

__all__ = [
    "EngineContext",
    "RolloutEngine",
    "SamplingParams",
    "check_engine",
    "make_engine",
    "register_engine",
    "require_engine",
]


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
    """Samples responses with the policy's weights.

    A run calls `generate` once for each training step and once or more for each validation, `load_weights` before the
    first of them and after every step's update, and `close` at its end; never two of them at once.
    """

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: SamplingParams,
        *,
        n: int,
        step: int,
        on_ended: Callable[[int], None] | None = None,
    ) -> list[Group]:
        """Samples `n` responses for each prompt: one group for each prompt, in the prompts' order.

        A response's `token_ids` are the sampled ones, its end token included where one was sampled; its `log_probs` are
        those of the policy at `sampling.temperature`, before top_p, top_k and min_p; its `finish_reason` is "stop" or
        "length". Training reads the tokens as they are and never spells or reads the text again. An engine that can
        sets the response's `entropy` too: a run that takes the samples' log-probabilities for old ones logs it.

        Random draws depend on the engine's seed, `step`, the prompt's uid, the response's number and the position
        only: never on what else is in the batch. `on_ended` is called with the number of responses that have ended
        since it was called last; the calls sum to all responses on return.
        """
        ...

    def load_weights(self, policy: Policy, version: int) -> None:
        """Takes over the policy's current weights; `version` is the step after which they are current."""
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
        ...


@dataclass(frozen=True)
class EngineContext:
    """What an engine is made from.

    Attributes:
        policy: whose weights sample.
        tokenizer: decodes responses and names the end token.
        seed: of all random draws.
        max_num_seqs: at most this many responses are sampled at a time.
        longest: tokens of the longest prompt and response together, where it is known.
    """

    policy: Policy
    tokenizer: PreTrainedTokenizerBase
    seed: int
    max_num_seqs: int
    longest: int = 0


EngineFactory = Callable[[EngineContext], RolloutEngine]
ENGINE_REGISTRY: dict[str, EngineFactory] = {}

Factory = TypeVar("Factory", bound=EngineFactory)


def register_engine(name: str) -> Callable[[Factory], Factory]:
    """Decorator that files an engine's factory under a name of `actor_rollout_ref.rollout.name`.

    Raises:
        ValueError: the name is another factory's already.
    """

    def decorate(factory: Factory) -> Factory:
        known = ENGINE_REGISTRY.get(name)
        if known is not None and known is not factory:
            raise ValueError(f"register_engine: {name!r} has already been registered ({known}): choose another name")
        if known is None:
            add(ENGINE_REGISTRY, name, factory, factory)
            add(ENGINES, name, factory, factory)
        return factory

    return decorate


def make_engine(name: str, context: EngineContext) -> RolloutEngine:
    """The engine of that name.

    Raises:
        ValueError: there is none; lists the known ones.
    """
    require_engine(name)
    return ENGINE_REGISTRY[name](context)


def require_engine(name: str) -> None:
    """Checks that an engine is known by its name, before anything is loaded for it.

    Raises:
        ValueError: it is not; lists the known ones.
    """
    if name not in ENGINE_REGISTRY:
        raise ValueError(
            f"actor_rollout_ref.rollout.name={name} is unknown; known: {', '.join(sorted(ENGINE_REGISTRY))}. One of "
            "your own is registered with gspo.rollout.register_engine, in a file that algorithm.external_modules names"
        )


def check_engine(engine: object) -> None:
    """Checks that an object can be used as an engine.

    Raises:
        ValueError: it lacks a method.
    """
    missing = [name for name in ("generate", "load_weights", "close") if not callable(getattr(engine, name, None))]
    if missing:
        raise ValueError(
            f"engine: a {type(engine).__name__} has no {' and no '.join(missing)}: give it the methods of "
            "gspo.rollout.RolloutEngine"
        )
