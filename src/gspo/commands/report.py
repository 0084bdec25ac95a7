"""`gspo report`: the report of a run, or several finished runs laid side by side."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gspo.config.paths import expanded
from gspo.config.secrets import masked_text
from gspo.observe.report import Variant, build_comparison, print_comparison, read_curves, write_report
from gspo.observe.report.run import Run

__all__ = ["differences", "names_of", "report_command"]

# What differs between any two runs, and tells nothing of them.
_OWN_KEYS = ("trainer.default_local_dir", "trainer.experiment_name", "trainer.project_name", "trainer.resume_mode")
_MOST_SETTINGS = 8


def report_command(args: argparse.Namespace) -> int:
    """`gspo report` with its parsed arguments."""
    folders = [expanded(folder, "RUN") for folder in args.folders]
    names = names_of(folders)
    runs = {name: read_curves(folder) for name, folder in zip(names, folders, strict=True)}
    for line in (line for run in runs.values() for line in run.damage):
        print(f"gspo: note: {line}", file=sys.stderr)
    first = runs[names[0]]
    if len(runs) > 1:
        return _compare(runs, first.folder / "compare.html" if args.out is None else expanded(args.out, "--out"))
    if args.out is not None:
        raise ValueError(f"--out names the page of several runs; the report of one is {first.folder / 'report.html'}")
    print(write_report(first))
    return 0


def _compare(runs: Mapping[str, Run], out: Path) -> int:
    variants = [Variant(name, {_seed(run): run}) for name, run in runs.items()]
    settings = differences(runs)
    build_comparison(out, " / ".join(runs), variants, settings)
    print_comparison(variants, f"{len(runs)} runs")
    for name, own in settings.items():
        print(f"{name}: {own or 'no settings of its own'}")
    print(f"page: {out}")
    return 0


def names_of(folders: Sequence[Path]) -> list[str]:
    """What tells the folders apart: the last part of their paths, or as many of the last parts as it takes.

    Raises:
        ValueError: two of them are the same folder.
    """
    parts = [folder.resolve().parts for folder in folders]
    for place, mine in enumerate(parts):
        if mine in parts[:place]:
            raise ValueError(f"{folders[place]} is given twice: give the folders of different runs")
    for length in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError("different folders have different paths")


def differences(runs: Mapping[str, Run]) -> dict[str, str]:
    """By name, the settings in which the runs differ, as overrides."""
    flat = {name: _flat(run.config) for name, run in runs.items()}
    keys = sorted({key for settings in flat.values() for key in settings} - set(_OWN_KEYS))
    differing = [key for key in keys if len({str(settings.get(key)) for settings in flat.values()}) > 1]
    return {
        name: _listed([f"{key}={_word(settings[key])}" for key in differing if key in settings])
        for name, settings in flat.items()
    }


def _word(value: Any) -> str:
    """A value as an override writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _listed(overrides: Sequence[str]) -> str:
    more = f", and {len(overrides) - _MOST_SETTINGS} more" if len(overrides) > _MOST_SETTINGS else ""
    return ", ".join(map(masked_text, overrides[:_MOST_SETTINGS])) + more


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix.removesuffix("."): tree} if prefix else {}
    return {key: value for name, child in tree.items() for key, value in _flat(child, f"{prefix}{name}.").items()}


def _seed(run: Run) -> int:
    seed = run.setting("trainer.seed", 0)
    return seed if isinstance(seed, int) else 0
