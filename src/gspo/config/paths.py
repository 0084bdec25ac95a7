"""The home folder in paths that a user writes: `~` is expanded where a path enters the program, and nowhere else."""

from __future__ import annotations

import os
import re
from pathlib import Path

from gspo.config.convert import ConfigError
from gspo.config.texts import text_problem

__all__ = ["expanded", "expanded_text", "is_jinja"]

_DRIVE = re.compile(r"([A-Za-z]):[\\/]")


def is_jinja(text: str) -> bool:
    """Whether a text is a template itself rather than the name of a file with one."""
    return "\n" in text or "{" in text


def expanded(path: str | os.PathLike[str], name: str) -> Path:
    """A path with its leading `~` or `~user` as that home folder.

    Args:
        path: as the user wrote it.
        name: the key, option or argument that it was given for, for messages.

    Raises:
        ConfigError: there is no such home folder, or the path holds a NUL or cannot be encoded as UTF-8.
    """
    return Path(expanded_text(os.fspath(path), name))


def expanded_text(path: str, name: str) -> str:
    """The same for a text that may also be the name of something else (a model on the hub), which stays as it is.

    Raises:
        ConfigError: as `expanded`.
    """
    if problem := text_problem(path, name):
        raise ConfigError(problem, name)
    if os.name == "posix" and (drive := _DRIVE.match(path)):
        within = path[drive.end() :].replace("\\", "/")
        raise ConfigError(
            f"{name}={path} is a path of Windows, and this is not: write it as this system has it (in WSL: "
            f"/mnt/{drive[1].lower()}/{within})",
            name,
        )
    whole = os.path.expanduser(path)
    if whole.startswith("~"):  # what expanduser does where it finds no home folder
        user = path.partition("/")[0]
        raise ConfigError(
            f"{name}={path}: there is no home folder for {user}: write the whole path, or ./{path} for a folder of "
            "that name here",
            name,
        )
    return whole
