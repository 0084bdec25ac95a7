"""Sequence-level reinforcement learning for language models.

The names are loaded when they are first used: `import gspo` loads neither torch nor transformers.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gspo.algorithms import register_adv_est as register_advantage
    from gspo.algorithms import register_policy_loss
    from gspo.api import Trainer, evaluate, export, sft, train
    from gspo.config import load_config
    from gspo.finished import load_run
    from gspo.rewards import register_reward
    from gspo.rollout import register_engine

__version__ = "0.1.0"

_BUSY = 0.5  # processes that were running in the last minute, on average


def _give_way() -> None:
    """Lets threads that wait for others sleep soon, where other processes use the machine too.

    GNU's OpenMP, which torch computes with on a CPU, lets such a thread spin for milliseconds. On cores of its own that
    is fastest; where another process has one of them, each of a step's thousands of waits lasts until the scheduler's
    next turn, and steps take ten times as long or more. OpenMP reads the variable once, when torch is loaded.
    """
    if os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} or not hasattr(os, "getloadavg"):
        return
    try:
        busy = os.getloadavg()[0] >= _BUSY
    except OSError:  # the system does not tell
        return
    if busy:
        os.environ["GOMP_SPINCOUNT"] = "1000"


_give_way()

# Where each public name is, and what it is called there.
_HOMES = {
    "Trainer": ("gspo.api", "Trainer"),
    "evaluate": ("gspo.api", "evaluate"),
    "export": ("gspo.api", "export"),
    "sft": ("gspo.api", "sft"),
    "train": ("gspo.api", "train"),
    "load_config": ("gspo.config", "load_config"),
    "load_run": ("gspo.finished", "load_run"),
    "register_advantage": ("gspo.algorithms", "register_adv_est"),
    "register_engine": ("gspo.rollout", "register_engine"),
    "register_policy_loss": ("gspo.algorithms", "register_policy_loss"),
    "register_reward": ("gspo.rewards", "register_reward"),
}

__all__ = [
    "Trainer",
    "__version__",
    "evaluate",
    "export",
    "load_config",
    "load_run",
    "register_advantage",
    "register_engine",
    "register_policy_loss",
    "register_reward",
    "sft",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gspo' has no attribute {name!r}")
    module, own = _HOMES[name]
    return getattr(import_module(module), own)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
