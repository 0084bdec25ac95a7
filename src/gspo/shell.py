"""Commands as messages print them: they can be pasted where the user stands.

A shell finds `gspo` on the PATH only where its environment is active, and no package index need have gspo: what is
printed follows from the environment that runs, and from where this package was installed from.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["environment_command", "gspo_command", "install_command", "pip_install", "python_command"]

# What an extra asks for, where the package is used without having been installed and nothing else tells.
_EXTRAS = {"teacher": ("openai", "tenacity"), "wandb": ("wandb",)}


def gspo_command(*words: str | Path) -> str:
    """The command `gspo`, spelled so that a shell in the working folder runs this environment's.

    Args:
        words: its arguments; quoted where a shell needs it.
    """
    program = _program("gspo") or f"{python_command()} -m gspo"
    return " ".join([program, *(shlex.quote(str(word)) for word in words)])


def environment_command(name: str, *words: str | Path) -> str:
    """The same of another program that this environment has, such as `hf`; the name alone where it has it not.

    Args:
        name: of the program.
        words: its arguments; quoted where a shell needs it.
    """
    return " ".join([_program(name) or name, *(shlex.quote(str(word)) for word in words)])


def python_command() -> str:
    """The interpreter that runs, as it is typed: `python` where the PATH leads to it, else its path."""
    return next(filter(None, map(_on_path, ("python", "python3"))), None) or _typed(Path(sys.executable))


def pip_install(*what: str) -> str:
    """The command that installs packages into the environment that runs.

    Args:
        what: names, folders or requirements; quoted where a shell needs it.
    """
    pip = _program("pip") or f"{python_command()} -m pip"
    return " ".join([pip, "install", *map(shlex.quote, what)])


def install_command(extra: str) -> str:
    """The command that installs an extra of this package, from where the package itself came.

    Args:
        extra: its name in pyproject.toml, such as wandb.
    """
    from importlib.metadata import PackageNotFoundError, distribution  # a tenth of the time of `gspo --help`

    try:
        source = distribution("gspo").read_text("direct_url.json")  # PEP 610; none for one from an index
    except PackageNotFoundError:
        return pip_install(*_EXTRAS[extra])
    if source is None:
        return pip_install(f"gspo[{extra}]")
    found: dict[str, Any] = json.loads(source)
    url = str(found["url"])
    if "dir_info" in found:
        folder = Path(unquote(urlsplit(url).path))
        place = "." if folder == Path.cwd() else str(folder)
        editable = ["-e"] if found["dir_info"].get("editable") else []
        return pip_install(*editable, f"{place}[{extra}]")
    version_control = found.get("vcs_info")
    if version_control:
        url = f"{version_control['vcs']}+{url}"
    return pip_install(f"gspo[{extra}] @ {url}")


def _program(name: str) -> str | None:
    """A program of this environment as it is typed; None where the environment has none of that name."""
    script = Path(sys.executable).parent / name
    return _on_path(name) or (_typed(script) if os.access(script, os.X_OK) else None)


def _on_path(name: str) -> str | None:
    """The name, where the PATH leads to this environment's program of that name."""
    found = shutil.which(name)
    is_own = found is not None and os.path.dirname(os.path.abspath(found)) == os.path.dirname(sys.executable)
    return name if is_own else None


def _typed(program: Path) -> str:
    """A program's path, relative where it is below the working folder."""
    here = Path.cwd()
    return shlex.quote(str(program.relative_to(here) if program.is_relative_to(here) else program))
