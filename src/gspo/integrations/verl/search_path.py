"""Where `python -m verl.trainer.main_ppo --config-path configs` finds its configuration.

Hydra takes a relative --config-path from the folder of verl's own file. Where there is no such folder, the one in the
current directory is meant; and the recipe's configurations are found by name behind both.
"""

from __future__ import annotations

from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["RECIPE", "GspoSearchPath", "register_search_path"]

RECIPE = Path(__file__).parent / "recipe" / "configs"
_FILE = "file://"


class GspoSearchPath(SearchPathPlugin):
    """Looks in the current directory for what is not beside verl's entry point, and in the recipe last."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Changes the main folder of a run of verl's; leaves those of other programs alone."""
        main = next((part for part in search_path.get_path() if part.provider == "main"), None)
        if main is None or main.path is None:
            return
        folder = Path(main.path.removeprefix(_FILE))
        beside = _verl_folder()
        if not folder.is_relative_to(beside):
            return
        if not folder.is_dir():
            here = Path.cwd() / folder.relative_to(beside)
            main.path = f"{_FILE}{here if here.is_dir() else RECIPE}"
        search_path.append("gspo", f"{_FILE}{RECIPE}")


def register_search_path() -> None:
    """Makes it known to Hydra in this process."""
    Plugins.instance().register(GspoSearchPath)


def _verl_folder() -> Path:
    import verl

    return Path(verl.__file__).resolve().parent / "trainer"
