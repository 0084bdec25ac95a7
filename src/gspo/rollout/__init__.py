"""Rollouts: engines that sample groups of responses."""

from gspo.rollout.engine import (
    EngineContext,
    RolloutEngine,
    SamplingParams,
    check_engine,
    make_engine,
    register_engine,
    require_engine,
)
from gspo.rollout.local import LocalEngine
from gspo.rollout.scripted import ScriptedEngine

__all__ = [
    "EngineContext",
    "LocalEngine",
    "RolloutEngine",
    "SamplingParams",
    "ScriptedEngine",
    "check_engine",
    "make_engine",
    "register_engine",
    "require_engine",
]
