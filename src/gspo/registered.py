"""Names that a user's files register, by registry, so that those of a file that fails are free again.

A file that fails half way has registered some of its names. Were they kept, the file would fail at them when it runs
again, corrected, in the same process.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["add", "undone_on_failure"]

_added: list[tuple[dict[str, Any], str]] = []


def add(registry: dict[str, Any], name: str, value: Any, function: Callable[..., Any]) -> None:
    """Files a value under a name.

    Args:
        registry: where.
        name: the name.
        value: what is filed: the function itself, or what is known of it.
        function: what is registered. This package's own stays, whichever file was the first to import it.
    """
    registry[name] = value
    if not str(getattr(function, "__module__", "")).startswith("gspo."):
        _added.append((registry, name))


@contextmanager
def undone_on_failure(folder: Path) -> Iterator[None]:
    """Runs a user's file: where it raises, the names that it has registered are free again.

    Modules of its folder that it has imported are forgotten too, as they would not register theirs a second time.

    Args:
        folder: the file's.
    """
    first, modules = len(_added), set(sys.modules)
    try:
        yield
    except BaseException:
        for registry, name in _added[first:]:
            registry.pop(name, None)
        for name in set(sys.modules) - modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file and Path(file).resolve().is_relative_to(folder):
                del sys.modules[name]
        raise
    finally:
        del _added[first:]
