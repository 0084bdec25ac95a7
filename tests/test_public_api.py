"""Every public module says what is public, and everything public is documented."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil

import pytest

import gspo

MODULES = ["gspo"] + [
    found.name
    for found in pkgutil.walk_packages(gspo.__path__, "gspo.")
    if not any(part.startswith("_") for part in found.name.split("."))
]


@pytest.mark.parametrize("name", MODULES)
def test_module_is_documented_and_lists_its_public_names(name: str) -> None:
    if name.startswith("gspo.integrations.verl."):
        pytest.importorskip("verl", reason="make test-verl has it")
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    assert isinstance(getattr(module, "__all__", None), list), f"{name} has no list __all__"
    names = module.__all__
    assert len(names) == len(set(names)), f"{name}.__all__ repeats a name"
    missing = [public for public in names if not hasattr(module, public)]
    assert not missing, f"{name}.__all__ names what is not there: {missing}"
    values = {public: getattr(module, public) for public in names}
    undocumented = [
        public
        for public, value in values.items()
        if (inspect.isclass(value) or inspect.isfunction(value)) and not has_own_docstring(value)
    ]
    assert not undocumented, f"{name}: no docstring on {undocumented}"


def has_own_docstring(value: object) -> bool:
    """A docstring that somebody wrote: not inherited, and not the signature that a dataclass puts in its place."""
    docstring = vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__
    return bool(docstring) and not str(docstring).startswith(f"{getattr(value, '__name__', '')}(")


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [
        (0.6, {}, "1000"),
        (0.4, {}, None),
        (9.0, {"GOMP_SPINCOUNT": "5"}, "5"),
        (9.0, {"OMP_WAIT_POLICY": "active"}, None),
    ],
)
def test_threads_that_wait_give_way_soon_on_a_busy_machine_unless_the_user_says_how(
    load: float, given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back at the end, whatever the reload sets
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    importlib.reload(gspo)
    assert os.environ.get("GOMP_SPINCOUNT") == expected
