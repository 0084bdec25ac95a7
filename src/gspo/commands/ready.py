"""What is checked before torch is imported, which takes seconds: a mistake in a command line is answered at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from gspo.config import Config
from gspo.config.paths import expanded
from gspo.config.requirements import require_honoured, require_keys, require_one_process, require_supported
from gspo.shell import pip_install

__all__ = ["require_alone", "require_packages", "require_ready", "require_ready_to_evaluate", "writable"]


def require_alone() -> None:
    """Holds that this is the only process of the command, and that it has the packages that it needs.

    Raises:
        ValueError: a launcher started several, or packages are missing or too old.
    """
    require_one_process()
    require_packages()


def require_ready(config: Config, command: str) -> None:
    """Holds that a configuration of `gspo train` or `gspo sft` can be begun with, as far as it says itself.

    Raises:
        ValueError: a key is not set or asks for what there is not, or a data file cannot be the one that is meant.
    """
    if command == "train":
        require_supported(config)
    else:
        require_honoured(config)
    require_keys(config, "actor_rollout_ref.model.path", "data.train_files")
    writable(Path(config.trainer.default_local_dir or "runs"), "trainer.default_local_dir=")
    from gspo.data.files import check_path

    for file in (*config.data.train_files, *config.data.val_files):
        check_path(Path(file))


def require_ready_to_evaluate(models: Iterable[str], files: Iterable[str], overrides: Sequence[str]) -> None:
    """Holds the same of `gspo eval`: its models, its data files and what is set.

    Raises:
        ValueError: a model is an override or nothing there, or a data file cannot be the one that is meant.
    """
    from gspo.commands.arguments import explain_overrides
    from gspo.data.files import check_path

    explain_overrides(overrides)
    for model in models:
        key, equals, value = model.partition("=")
        if equals and re.fullmatch(r"[a-z_0-9]+(\.[a-z_0-9]+)+", key):
            model_itself = (
                f"a model is named alone, as {value}" if key.endswith("model.path") else "keys stand behind --set"
            )
            raise ValueError(f"{model} is a setting, and not a model: {model_itself}")
    for file in files:
        check_path(expanded(file, "--data"))


def writable(folder: Path, named: str = "--out ") -> Path:
    """The folder that `--out` names; that it can be made and written to is tried before anything takes time.

    Args:
        folder: which need not be there, and is not made.
        named: what stands before it in messages: the option with a space, or the key with its sign.

    Raises:
        ValueError: it cannot.
    """
    taken = next((part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()), None)
    if taken is not None:
        where = "" if taken == folder else f": {taken}"
        raise ValueError(f"{named}{folder}{where} is a file: name a folder")
    missing = [part for part in (folder, *folder.parents) if not part.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        can_be_written = os.access(folder, os.W_OK)
        for part in missing:
            part.rmdir()
    except OSError as error:
        raise ValueError(f"{named}{folder} cannot be made ({error.strerror}): name another folder") from error
    if not can_be_written:
        raise ValueError(f"{named}{folder} is read-only: name a folder that can be written to")
    return folder


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
