"""Training: the loop, what a run is made of, and how it is set up from a config."""

from __future__ import annotations

from gspo.config import Config
from gspo.trainer.loop import train_run
from gspo.trainer.opening import Given
from gspo.trainer.run import Run, TrainRun
from gspo.trainer.setup import opened

__all__ = ["Given", "Run", "TrainRun", "opened", "train", "train_run"]


def train(config: Config, given: Given | None = None) -> TrainRun:
    """Trains as the configuration says and returns the finished run, its report and its export written.

    Args:
        config: the resolved configuration.
        given: objects in place of what it names.

    Raises:
        ValueError: something the run was given cannot be used; says what and how to fix it.
    """
    with opened(config, given) as run:
        train_run(run)
    return run
