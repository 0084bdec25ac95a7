"""Names of policy losses and advantage estimators: plain dictionaries with errors that help.

A name registered twice for two functions is an error; an unknown name lists the known ones. The function and
dictionary names are verl's (`verl.trainer.ppo.core_algos`). What else is known of a name is its row in `gspo.methods`,
which registering it adds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar

from gspo.methods import ADVANTAGES, LOSSES, Advantage, AdvantageEstimator, PolicyLoss, Row, declared, loss_named
from gspo.registered import add

__all__ = [
    "ADV_ESTIMATOR_REGISTRY",
    "POLICY_LOSS_REGISTRY",
    "AdvantageEstimator",
    "get_adv_estimator_fn",
    "get_policy_loss_fn",
    "register_adv_est",
    "register_advantage",
    "register_policy_loss",
]

Function = TypeVar("Function", bound=Callable[..., Any])

POLICY_LOSS_REGISTRY: dict[str, Callable[..., Any]] = {}
ADV_ESTIMATOR_REGISTRY: dict[str, Callable[..., Any]] = {}


def _key(name: str | Enum) -> str:
    return str(name.value) if isinstance(name, Enum) else name


def _file(
    registry: dict[str, Callable[..., Any]],
    rows: dict[str, Row],
    row: Row,
    function: Callable[..., Any],
    known: Row | None,
    with_facts: bool,
) -> None:
    """Files a function and its row, where neither contradicts what is filed under the name already."""
    name, kind = row.name, "policy loss" if isinstance(row, PolicyLoss) else "advantage estimator"
    before = registry.get(name)
    if before is not None and before is not function:
        raise ValueError(f"{kind} {name!r} has already been registered: {before} vs {function}; choose another name")
    if known is None:
        add(rows, name, row, function)
    elif with_facts and row != known:
        raise ValueError(f"{kind} {name!r} has already been registered with other facts: {known}; choose another name")
    if before is None:
        add(registry, name, function, function)


def register_policy_loss(name: str, **facts: Any) -> Callable[[Function], Function]:
    """Decorator that files a policy loss under `name`; several names may stand for one function.

    Args:
        name: the value of `actor_rollout_ref.actor.policy_loss` that chooses it.
        facts: what is known of it, by the names of `gspo.methods.PolicyLoss`: sequence_clip, clip, aggregation,
            zero_advantage_is_zero, zero_advantage_never_clips, clip_band, source. Those left out have its defaults.

    Raises:
        TypeError: a fact is unknown; lists the known ones.
        ValueError: a fact cannot be, or the name has another function or other facts already.
    """
    row = declared(PolicyLoss, name, facts)

    def decorate(function: Function) -> Function:
        _file(POLICY_LOSS_REGISTRY, LOSSES, row, function, loss_named(name), bool(facts))
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


def register_adv_est(name_or_enum: str | Enum, **facts: Any) -> Callable[[Function], Function]:
    """Decorator that files an advantage estimator under a name or the value of an enum's member.

    Args:
        name_or_enum: the value of `algorithm.adv_estimator` that chooses it.
        facts: what is known of it, by the names of `gspo.methods.Advantage`: compares_groups, needs_values,
            min_responses, whitens, per_reward, source. Those left out have its defaults.

    Raises:
        TypeError: a fact is unknown; lists the known ones.
        ValueError: a fact cannot be, or the name has another function or other facts already.
    """
    name = _key(name_or_enum)
    row = declared(Advantage, name, facts)

    def decorate(function: Function) -> Function:
        _file(ADV_ESTIMATOR_REGISTRY, ADVANTAGES, row, function, ADVANTAGES.get(name), bool(facts))
        return function

    return decorate


register_advantage = register_adv_est


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
