"""Rollouts: engines that sample groups of responses."""

from gspo.rollout.engine import RolloutEngine, SamplingParams
from gspo.rollout.local import LocalEngine
from gspo.rollout.scripted import ScriptedEngine

__all__ = ["LocalEngine", "RolloutEngine", "SamplingParams", "ScriptedEngine"]
