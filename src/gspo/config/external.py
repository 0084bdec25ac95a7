"""The user's own losses and advantages: files that register them, and the check that every name is known."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from gspo.config.convert import ConfigError
from gspo.config.neighbours import search_folder_of
from gspo.config.schema import Config
from gspo.config.verl_keys import is_verls
from gspo.methods import ADVANTAGES, LOSSES, loss_named
from gspo.registered import undone_on_failure

__all__ = ["load_external", "require_methods", "run_files"]

_KEY = "algorithm.external_modules"


def load_external(config: Config) -> None:
    """Runs `algorithm.external_modules` and checks that loss and advantage are known then. `load_config` has done so.

    Raises:
        ConfigError: a file is missing or does not run, or a name is not known.
    """
    run_files(config.algorithm.external_modules)
    require_methods(config)


def require_methods(config: Config) -> None:
    """Checks that loss and advantage are known, and that there is a critic where the advantage needs one.

    Those that only verl has are refused with all else that it asks for, when a run starts.

    Raises:
        ConfigError: they are not; lists the known ones.
    """
    algorithm, loss = config.algorithm, config.actor_rollout_ref.actor.policy_loss
    if loss_named(loss.loss_mode) is None and not is_verls(loss.key("loss_mode"), loss.loss_mode):
        raise _unknown(loss.key("loss_mode"), loss.loss_mode, LOSSES, algorithm.external_modules)
    advantage = algorithm.key("adv_estimator")
    if algorithm.adv_estimator not in ADVANTAGES and not is_verls(advantage, algorithm.adv_estimator):
        raise _unknown(advantage, algorithm.adv_estimator, ADVANTAGES, algorithm.external_modules)
    if config.uses_value_critic and config.critic.enable is False:
        raise ConfigError(
            f"algorithm.adv_estimator={algorithm.adv_estimator} needs a critic: set critic.enable=null, or "
            "adv_estimator=grpo",
            "algorithm.adv_estimator",
        )


def _unknown(key: str, name: str, rows: Iterable[str], files: Sequence[str]) -> ConfigError:
    known = list(rows)
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}? Known: {', '.join(known)}" if near else f"known: {', '.join(known)}"
    if files:
        return ConfigError(f"{key}={name} is unknown: no file of {_KEY} registers it; {hint}", key)
    return ConfigError(f"{key}={name} is unknown; {hint}. One of your own is found through {_KEY}=[FILE.py]", key)


def run_files(files: Sequence[str]) -> None:
    """Runs the user's Python files, each once a process. Modules of a file's folder can be imported.

    Args:
        files: paths, relative to the working directory.

    Raises:
        ConfigError: a file is missing or does not run.
    """
    for file in files:
        _run_file(file)


def _run_file(file: str) -> None:
    path = Path(file).resolve()
    if not path.is_file():
        raise ConfigError(f"{_KEY}: there is no file {file}: name the Python file that registers your own", _KEY)
    name = f"gspo_external_{path.stem}_{sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{_KEY}: {file} is not a Python file: it must end in .py", _KEY)
    module = module_from_spec(spec)
    sys.modules[name] = module  # before it runs: a dataclass looks its own module up there
    search_folder_of(path)
    try:
        with undone_on_failure(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's file may raise anything, and end with an exit()
        sys.modules.pop(name, None)
        line = traceback.extract_tb(error.__traceback__)[-1]
        raise ConfigError(
            f"{_KEY}: {file} does not run: {type(error).__name__}: {error} "
            f"({Path(line.filename).name}, line {line.lineno}): fix it",
            _KEY,
        ) from error
