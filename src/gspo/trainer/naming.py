"""The folder of a run that names none: one of its own for each configuration.

`runs/PROJECT_NAME/EXPERIMENT_NAME` is the same for all runs of one loss and model. Where it holds a run with other
settings, that run is neither gone on with nor moved: the new one takes the next free name, EXPERIMENT_NAME-2 and so on.
The same settings find their own folder again, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

from gspo.config import Config
from gspo.trainer.folder import folder_of, holds_run
from gspo.trainer.records import differences

__all__ = ["in_own_folder"]

_NAMED = ("trainer.default_local_dir", "trainer.experiment_name")
_SHOWN = 3  # differences in a message


def in_own_folder(config: Config, objects: Collection[str], say: Callable[[str], None]) -> Config:
    """The configuration with a folder and a name of its own, where the user names neither.

    Args:
        config: the resolved configuration.
        objects: keys of what is given as an object, whose paths say nothing.
        say: called with where the run goes and why, where that is not the usual place.
    """
    trainer = config.trainer
    if trainer.resume_mode != "auto" or any(key in config.user_set for key in _NAMED):
        return config
    usual = folder_of(trainer)
    changed: dict[str, str] = {}
    for place in _places(usual):
        if not holds_run(place):
            break
        differs = differences(place, config, objects)
        if not differs:
            break
        changed = changed or differs
    if place == usual:
        return config
    listed = "; ".join(list(changed.values())[:_SHOWN]) + ("; ..." if len(changed) > _SHOWN else "")
    say(
        f"{usual} holds a run with other settings ({listed}): this one goes to {place}. "
        f"trainer.default_local_dir={usual} goes on with the earlier one under these settings"
    )
    suffix = place.name.removeprefix(usual.name)
    named = replace(trainer, default_local_dir=str(place), experiment_name=f"{trainer.experiment_name}{suffix}")
    return replace(config, trainer=named)


def _places(usual: Path) -> Iterator[Path]:
    yield usual
    for number in count(2):
        yield usual.with_name(f"{usual.name}-{number}")
