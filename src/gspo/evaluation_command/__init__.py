"""`gspo eval`: models, runs and checkpoints on data sets, measured and compared."""

from gspo.evaluation_command.command import evaluate_models

__all__ = ["evaluate_models"]
