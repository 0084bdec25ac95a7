"""The user's own losses and advantages: files that register them, run before anything else of a run."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Mapping
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from gspo.algorithms import ADV_ESTIMATOR_REGISTRY, POLICY_LOSS_REGISTRY
from gspo.config import Config, ConfigError

__all__ = ["load_external"]

_KEY = "algorithm.external_modules"


def load_external(config: Config) -> None:
    """Runs `algorithm.external_modules`, each file once a process, and holds that loss and advantage are known then.

    Raises:
        ConfigError: a file is missing or does not run, or nothing registers the loss or the advantage.
    """
    for file in config.algorithm.external_modules:
        _run_file(file)
    loss = config.actor_rollout_ref.actor.policy_loss
    registries: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
        (loss.key("loss_mode"), loss.loss_mode, POLICY_LOSS_REGISTRY),
        (config.algorithm.key("adv_estimator"), config.algorithm.adv_estimator, ADV_ESTIMATOR_REGISTRY),
    )
    for key, name, registry in registries:
        if name not in registry:
            raise ConfigError(
                f"{key}={name} is unknown: no file of {_KEY} registers it; known: {', '.join(sorted(registry))}", key
            )


def _run_file(file: str) -> None:
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"{_KEY}: there is no file {file}: name the Python file that registers your own", _KEY)
    name = f"gspo_external_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{_KEY}: {file} is not a Python file: it must end in .py", _KEY)
    module = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's file may raise anything
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{_KEY}: {file} does not run: {type(error).__name__}: {error} "
            f"({Path(line.filename).name}, line {line.lineno}): mend it",
            _KEY,
        ) from error
    sys.modules[name] = module
