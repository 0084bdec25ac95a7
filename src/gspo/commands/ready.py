"""What is checked before torch is imported, which takes seconds: a mistake in a command line is answered at once."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gspo.config import Config
from gspo.config.requirements import require_keys, require_one_process, require_supported
from gspo.shell import pip_install

__all__ = ["require_packages", "require_ready"]


def require_ready(config: Config, command: str) -> None:
    """Holds that a configuration of `gspo train` or `gspo sft` can be begun with, as far as it says itself.

    Raises:
        ValueError: a key is not set or asks for what there is not, or a data file cannot be the one that is meant.
    """
    require_one_process()
    if command == "train":
        require_supported(config)
    require_keys(config, "actor_rollout_ref.model.path", "data.train_files")
    from gspo.data.files import check_path

    for file in (*config.data.train_files, *config.data.val_files):
        check_path(Path(file))


def require_packages(requirements: Iterable[str] | None = None) -> None:
    """Holds that every package that gspo needs is installed, in a version that it works with.

    Args:
        requirements: as in pyproject.toml; None: those of the installed gspo. Without one there is nothing to hold.

    Raises:
        ValueError: packages are missing or too old; has the command that installs them.
    """
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement
    from packaging.version import Version

    if requirements is None:
        try:
            requirements = requires("gspo") or ()
        except PackageNotFoundError:
            return
    wrong: dict[str, str] = {}
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong[f"{requirement.name}{requirement.specifier}"] = f"{requirement.name} is not installed"
            continue
        # A build of one's own, such as 2.9.0a0+git, counts as what it leads to.
        if Version(found).base_version not in requirement.specifier:
            wrong[f"{requirement.name}{requirement.specifier}"] = f"{requirement.name} {found} is installed"
    if wrong:
        needed = "; ".join(f"gspo needs {name}, and {what}" for name, what in wrong.items())
        raise ValueError(f"{needed}: run `{pip_install(*wrong)}`")
