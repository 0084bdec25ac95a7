"""The import layers: a package imports only from packages below it, and `import gspo` stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "gspo"

# For each package the packages it may import. A new file or folder under src/gspo needs its line here.
BASE = {"algorithms", "groups", "config", "lazy", "locks", "methods", "registered", "shell", "signals", "world"}
MIDDLE = {"rollout", "rewards", "models", "data", "checkpoint", "observe"}
MAY_IMPORT: dict[str, set[str]] = {
    "lazy": set(),
    "locks": set(),
    "methods": set(),
    "registered": set(),
    "shell": set(),
    "signals": set(),
    "algorithms": {"groups", "methods", "registered"},
    "groups": {"algorithms"},
    "world": {"algorithms"},
    "config": {"methods", "registered", "shell"},
    **dict.fromkeys(MIDDLE, BASE),
    "rollout": BASE | {"models"},  # the local engine samples from the models themselves
    "evaluation": BASE | {"rewards", "rollout"},
    "trainer": BASE | MIDDLE | {"evaluation"},
    "finished": BASE | {"observe", "checkpoint"},
    "integrations": BASE | MIDDLE | {"trainer"},
    "api": BASE | MIDDLE | {"evaluation", "trainer", "finished"},
    "commands": BASE | MIDDLE | {"evaluation", "trainer", "finished", "api"},
    "cli": BASE | MIDDLE | {"evaluation", "trainer", "finished", "api", "commands"},
    "__main__": {"cli"},
}
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def imported_modules(tree: ast.AST, package: tuple[str, ...]) -> list[tuple[int, str]]:
    """(line, absolute dotted name) of every import, those inside functions and type-checking blocks included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return found


def rooms_imported(path: Path) -> list[tuple[int, str]]:
    package = ("gspo", *path.parts[:-1])
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    names = [(line, name.split(".")) for line, name in imported_modules(tree, package)]
    return [(line, parts[1]) for line, parts in names if parts[0] == "gspo" and len(parts) > 1]


def test_relative_imports_are_resolved() -> None:
    source = "from . import stats\nfrom ..groups import Group\ndef f():\n    import gspo.config.schema\nimport torch"
    found = imported_modules(ast.parse(source), ("gspo", "algorithms"))
    names = ["gspo.algorithms.stats", "gspo.groups.Group", "torch", "gspo.config.schema"]
    assert sorted(name for _, name in found) == sorted(names)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__" or path.name == "main_ppo.py":
        return  # `import gspo` is held by its own test; main_ppo is verl's name for the command line
    assert room in MAY_IMPORT, f"src/gspo/{path} is in no layer: give {room!r} its line in MAY_IMPORT"
    allowed = MAY_IMPORT[room] | {room}
    wrong = [(line, name) for line, name in rooms_imported(path) if name in MAY_IMPORT and name not in allowed]
    lines = "; ".join(f"src/gspo/{path}:{line} imports gspo.{name}" for line, name in wrong)
    assert not wrong, f"{lines}; {room} may import {sorted(allowed)} only"


@pytest.mark.parametrize("path", [path for path in FILES if room_of(path) in ("algorithms", "groups")], ids=str)
def test_the_algorithms_need_torch_and_numpy_only(path: Path) -> None:
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    packages = {name.split(".")[0] for _, name in imported_modules(tree, ("gspo", *path.parts[:-1]))}
    assert packages - set(sys.stdlib_module_names) <= {"gspo", "torch", "numpy"}


@pytest.mark.parametrize("modules", ["gspo", "gspo.methods, gspo.config, gspo.config.docs"])
def test_importing_gspo_or_its_configuration_imports_no_heavy_package(modules: str) -> None:
    heavy = ("torch", "transformers", "numpy")
    program = f"import sys, {modules}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
