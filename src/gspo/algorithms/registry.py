"""Names of policy losses and advantage estimators: plain dictionaries with errors that help.

A name registered twice for two functions is an error; an unknown name lists the known ones. The function and
dictionary names are verl's (`verl.trainer.ppo.core_algos`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, StrEnum
from typing import Any, TypeVar

__all__ = [
    "ADV_ESTIMATOR_REGISTRY",
    "POLICY_LOSS_REGISTRY",
    "AdvantageEstimator",
    "get_adv_estimator_fn",
    "get_policy_loss_fn",
    "register_adv_est",
    "register_policy_loss",
]

Function = TypeVar("Function", bound=Callable[..., Any])

POLICY_LOSS_REGISTRY: dict[str, Callable[..., Any]] = {}
ADV_ESTIMATOR_REGISTRY: dict[str, Callable[..., Any]] = {}


class AdvantageEstimator(StrEnum):
    """The advantage estimators of this package, under verl's names. Further ones are registered by a plain string."""

    GAE = "gae"
    GRPO = "grpo"
    GRPO_VECTORIZED = "grpo_vectorized"
    GRPO_PASSK = "grpo_passk"
    GDPO = "gdpo"
    RLOO = "rloo"
    RLOO_VECTORIZED = "rloo_vectorized"
    OPO = "opo"
    REINFORCE_PLUS_PLUS = "reinforce_plus_plus"
    REINFORCE_PLUS_PLUS_BASELINE = "reinforce_plus_plus_baseline"


def _key(name: str | Enum) -> str:
    return str(name.value) if isinstance(name, Enum) else name


def _add(registry: dict[str, Callable[..., Any]], kind: str, name: str, function: Callable[..., Any]) -> None:
    known = registry.get(name)
    if known is not None and known is not function:
        raise ValueError(f"{kind} {name!r} has already been registered: {known} vs {function}; choose another name")
    registry[name] = function


def register_policy_loss(name: str) -> Callable[[Function], Function]:
    """Decorator that files a policy loss under `name`; several names may stand for one function.

    Raises:
        ValueError: the name stands for another function already.
    """

    def decorate(function: Function) -> Function:
        _add(POLICY_LOSS_REGISTRY, "policy loss", name, function)
        return function

    return decorate


def get_policy_loss_fn(name: str) -> Callable[..., Any]:
    """The policy loss of that name.

    Raises:
        ValueError: there is none; the message lists the known names.
    """
    if name not in POLICY_LOSS_REGISTRY:
        raise ValueError(f"Unsupported loss mode: {name}. Supported modes are: {sorted(POLICY_LOSS_REGISTRY)}")
    return POLICY_LOSS_REGISTRY[name]


def register_adv_est(name_or_enum: str | Enum) -> Callable[[Function], Function]:
    """Decorator that files an advantage estimator under a name or the value of an enum's member.

    Raises:
        ValueError: the name stands for another function already.
    """

    def decorate(function: Function) -> Function:
        _add(ADV_ESTIMATOR_REGISTRY, "advantage estimator", _key(name_or_enum), function)
        return function

    return decorate


def get_adv_estimator_fn(name_or_enum: str | Enum) -> Callable[..., Any]:
    """The advantage estimator of that name (case matters).

    Raises:
        ValueError: there is none; the message lists the known names.
    """
    name = _key(name_or_enum)
    if name not in ADV_ESTIMATOR_REGISTRY:
        # The opening words are verl's, on which callers match.
        raise ValueError(f"Unknown advantage estimator simply: {name}. Known: {sorted(ADV_ESTIMATOR_REGISTRY)}")
    return ADV_ESTIMATOR_REGISTRY[name]
