"""Reward functions as objects: those that a program hands over, and those that a file registers under a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from gspo.registered import add
from gspo.rewards.base import RewardError
from gspo.rewards.builtin import BUILTINS
from gspo.rewards.loading import check_function

__all__ = ["REWARD_REGISTRY", "named_functions", "register_reward", "registered"]

Function = TypeVar("Function", bound=Callable[..., Any])

REWARD_REGISTRY: dict[str, Callable[..., Any]] = {}
# Names that `reward.functions` and the metrics give another meaning.
_TAKEN = (*BUILTINS, "custom", "overlong_buffer", "discriminator")


def register_reward(name: str) -> Callable[[Function], Function]:
    """Decorator that files a reward function under `name`, for `reward.functions=[{name: NAME, weight: 0.5}]`.

    The function is called with those of `data_source`, `solution_str`, `ground_truth`, `extra_info` and `prompt_str`
    that it takes, and with the entry's `kwargs`. It runs in the trainer's process.

    Raises:
        RewardError: the name is a built-in one, or is another function's already.
    """
    if name in _TAKEN:
        raise RewardError(f"register_reward: {name!r} is the name of a built-in reward: choose another one")

    def decorate(function: Function) -> Function:
        known = REWARD_REGISTRY.get(name)
        if known is not None and known is not function:
            raise RewardError(f"register_reward: {name!r} has already been registered ({known}): choose another name")
        if known is None:
            add(REWARD_REGISTRY, name, function, function)
        return function

    return decorate


def registered(name: str, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The registered function of that name, checked to take its settings.

    Raises:
        RewardError: there is none; lists the known names.
    """
    if name not in REWARD_REGISTRY:
        known = [*BUILTINS, "custom", *REWARD_REGISTRY]
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise RewardError(
            f"reward.functions: there is no reward function {name!r}; {hint}There are {', '.join(known)}. One of your "
            "own is registered with gspo.register_reward, in a file that algorithm.external_modules names"
        )
    check_function(REWARD_REGISTRY[name], name, kwargs, "reward.functions")
    return REWARD_REGISTRY[name]


def named_functions(given: Any) -> dict[str, tuple[float, Callable[..., Any]]]:
    """The functions that a program hands over as `rewards`: name to (weight, function).

    Args:
        given: a function, several, or a mapping of names to functions or to (weight, function). A function's own name
            is taken where none is given; a lambda is called "reward".

    Raises:
        RewardError: something is no function, or cannot be called with a row's keywords.
    """
    if isinstance(given, Mapping):
        pairs = [(str(name), *_weighted(value)) for name, value in given.items()]
    else:
        several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
        pairs = [(_own_name(function), 1.0, function) for function in several]
    if not pairs:
        raise RewardError("rewards: there is no function: give one, or leave rewards out")
    named: dict[str, tuple[float, Callable[..., Any]]] = {}
    seen = Counter[str]()
    for name, weight, function in pairs:
        check_function(function, name, {}, "rewards")
        seen[name] += 1
        named[name if seen[name] == 1 else f"{name}_{seen[name]}"] = (weight, function)
    return named


def _weighted(value: Any) -> tuple[float, Any]:
    return (float(value[0]), value[1]) if isinstance(value, tuple) and len(value) == 2 else (1.0, value)


def _own_name(function: Any) -> str:
    function = getattr(function, "func", function)  # of a functools.partial
    name = getattr(function, "__name__", type(function).__name__)
    return "reward" if name == "<lambda>" else str(name)
