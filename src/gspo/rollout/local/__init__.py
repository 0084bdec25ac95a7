"""The local engine: batched sampling with the trainer's own weights."""

from gspo.rollout.local.engine import LocalEngine

__all__ = ["LocalEngine"]
