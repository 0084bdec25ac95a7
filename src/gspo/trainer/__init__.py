"""Training: the loop, its stages, and what a run is made of."""

from gspo.trainer.loop import train, train_run
from gspo.trainer.run import Run, open_run

__all__ = ["Run", "open_run", "train", "train_run"]
