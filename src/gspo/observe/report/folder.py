"""Reads a run folder: finished, under way, interrupted or damaged; of this package or of verl."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gspo.methods import Advantage, PolicyLoss, read_row
from gspo.observe.jsonl import readable_jsonl
from gspo.observe.report.run import Curve, Run
from gspo.observe.report.verl_files import metric_files, read_metrics, verl_samples

__all__ = ["no_run_in", "read_curves"]

_METRICS = "metrics.jsonl"
_MOST_NAMED = 5


def read_curves(place: Path) -> Run:
    """Reads a run folder, finished or not. Lines that cannot be read are left out, and `damage` says so.

    Args:
        place: the folder of a run, of this package or of verl, or the file of verl's metrics.

    Raises:
        ValueError: there are no metrics, or the folder's config cannot be read.
    """
    files = metric_files(place)
    if not files:
        raise ValueError(no_run_in(place))
    folder = files[0].parent
    records, faults = read_metrics(files)
    points: dict[str, dict[int, float]] = {}
    for record in sorted(records, key=lambda record: record["step"]):
        for name, value in record.items():
            if name != "step" and (value is None or isinstance(value, (int, float))):
                points.setdefault(name, {})[record["step"]] = math.nan if value is None else float(value)
    curves = {name: Curve(tuple(values), tuple(values.values())) for name, values in points.items()}
    own = folder / "samples.jsonl"
    samples, sample_faults = readable_jsonl(own) if own.exists() else verl_samples(folder)
    text, config = _read_config(folder / "config.yaml")
    damage = tuple(_damage(found) for found in (faults, sample_faults) if found)
    return Run(folder, curves, samples, text, config, damage, **_own_methods(folder / "methods.json"))


def _damage(faults: Sequence[str]) -> str:
    more = f", and {len(faults) - 1} more" if len(faults) > 1 else ""
    return f"{faults[0]}{more}: left out"


def _read_config(file: Path) -> tuple[str, dict[str, Any]]:
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    try:
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else {}
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ValueError(f"{file} is not YAML; restore it or remove it: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{file} is not a mapping of keys; it should be the resolved config of the run")
    return text, {str(key): config[key] for key in config}


def _own_methods(file: Path) -> dict[str, Any]:
    """What the user's own loss and advantage declare, as `Run` names them; nothing without such a file."""
    if not file.exists():
        return {}
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        loss, advantage = kept.get("policy_loss"), kept.get("advantage")
        return {
            "own_loss": None if loss is None else read_row(PolicyLoss, loss),
            "own_advantage": None if advantage is None else read_row(Advantage, advantage),
        }
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{file} does not hold what a run writes there; restore it or remove it: {error}") from error


def no_run_in(folder: Path) -> str:
    """What to give in place of a folder that holds no run."""
    wanted = (
        "give the folder of a run (trainer.default_local_dir), or the file that verl's file logger wrote "
        "(VERL_FILE_LOGGER_PATH)"
    )
    if not folder.is_dir():
        if folder.is_file():
            beside = (folder.parent / _METRICS).exists()
            return f"{folder} is no folder: {f'give {folder.parent}' if beside else wanted}"
        return f"there is no folder {folder}: {wanted}"
    inside = sorted(str(path.parent) for depth in (1, 2, 3) for path in folder.glob("*/" * depth + _METRICS))
    if inside:
        more = f" and {len(inside) - _MOST_NAMED} more" if len(inside) > _MOST_NAMED else ""
        return f"{folder} has no metrics.jsonl; the runs in it are {', '.join(inside[:_MOST_NAMED])}{more}: give one"
    if (folder / "config.yaml").exists():
        return f"{folder} has no metrics.jsonl: its run has not logged a step yet"
    return f"{folder} has no metrics.jsonl: {wanted}"
