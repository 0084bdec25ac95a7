"""Rewards: who judges a response, and what comes of it: a value, an abstention or an error.

The names are loaded when they are first used, so that the processes that score, which live in this package too, start
without loading torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gspo.rewards.base import RewardError, RewardFunction, Scorer, to_outcome
    from gspo.rewards.functions import register_reward
    from gspo.rewards.manager import RewardManager

__all__ = ["RewardError", "RewardFunction", "RewardManager", "Scorer", "register_reward", "to_outcome"]

_HOMES = dict.fromkeys(__all__, "base") | {"RewardManager": "manager", "register_reward": "functions"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
