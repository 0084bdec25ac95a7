"""`gspo eval`: models, runs and checkpoints on data sets, measured and compared."""

from gspo.commands.evaluate.command import evaluate_models

__all__ = ["evaluate_models"]
