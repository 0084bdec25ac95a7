"""What verl loads of this package: the entry point `gspo` in its group `verl.plugins`.

`import verl` runs this file in the driver and in every worker, in runs that have nothing to do with GAD too. So it
imports little: the trainer is loaded behind verl's own trainers, in a process that loads them.
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType

__all__ = ["VERSIONS", "load_trainer", "register"]

VERSIONS = "verl>=0.9,<0.11"  # as in the extra `verl` of pyproject.toml
_TRAINERS = "verl.trainer.ppo.v1"
_log = logging.getLogger("gspo")


def register() -> None:
    """Makes the trainer `gad` known as soon as verl's trainers are, and the recipe's configuration to Hydra."""
    from gspo.integrations.verl.search_path import register_search_path

    register_search_path()
    if _TRAINERS in sys.modules:
        load_trainer()
    elif not any(isinstance(finder, _BehindTrainers) for finder in sys.meta_path):
        sys.meta_path.insert(0, _BehindTrainers())


def load_trainer() -> bool:
    """Registers the trainer, if this verl has what it needs; says which verl it needs, if not."""
    try:
        importlib.import_module("gspo.integrations.verl.trainer")
    except (ImportError, AttributeError, TypeError) as error:
        verl = sys.modules.get("verl")
        _log.warning(
            "gspo: trainer.v1.trainer_mode=gad is not available: it needs %s, and with verl %s its import ends with "
            "%s: %s. Install the extra: pip install 'gspo[verl]'",
            VERSIONS,
            getattr(verl, "__version__", "of an unknown version"),
            type(error).__name__,
            error,
        )
        return False
    return True


class _BehindTrainers(MetaPathFinder):
    """Runs `load_trainer` when the module of verl's trainers has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TRAINERS:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        load_trainer()


register()
