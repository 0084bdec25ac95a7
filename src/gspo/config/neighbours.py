"""Modules beside a user's file: what it imports of its own folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["search_folder_of"]


def search_folder_of(file: Path, *, first: bool = True) -> None:
    """Makes the modules of a file's folder importable.

    Args:
        file: the user's.
        first: the folder is searched before others, as Python does for a script; else behind them.
    """
    folder = str(file.resolve().parent)
    if folder in sys.path:
        return
    # A file that bears the name of an installed package, math_verify.py say, must not hide it from its own imports.
    hides = file.stem.isidentifier() and importlib.util.find_spec(file.stem) is not None
    sys.path.insert(0 if first and not hides else len(sys.path), folder)
