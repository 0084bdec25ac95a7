"""A run of verl as the report reads it: the files of verl's own loggers, in one folder.

metrics     `metrics*.jsonl` (several where a run was resumed), or a single file given by name: lines of verl's file
            logger, {"step": 3, "data": {...}}
samples     `rollouts/3.jsonl` (trainer.rollout_data_dir) and `validation/3.jsonl` (trainer.validation_data_dir)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gspo.observe.jsonl import read_jsonl

__all__ = ["metric_records", "verl_samples"]

_SPLIT_OF = {"rollouts": "train", "validation": "val"}


def metric_records(place: Path) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of a run, and one record of metrics for each line, of this package's runs and of verl's alike.

    Args:
        place: the run's folder, or the file of its metrics.

    Raises:
        ValueError: there is no such file, or it cannot be read.
    """
    folder = place.parent if place.is_file() else place
    own = folder / "metrics.jsonl"
    files = [place] if place.is_file() else [own] if own.exists() else sorted(folder.glob("metrics*.jsonl"))
    if not files:
        raise ValueError(
            f"{folder} has no metrics.jsonl; give the folder of a run (trainer.default_local_dir), or the file that "
            "verl's file logger wrote (VERL_FILE_LOGGER_PATH)"
        )
    return folder, [_flat(record) for file in files for record in read_jsonl(file)]


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    data = record.get("data")
    if not isinstance(data, dict):
        return record
    numbers = {name: value for name, value in data.items() if value is None or isinstance(value, (int, float))}
    return {**numbers, "step": record["step"]}


def verl_samples(folder: Path) -> list[dict[str, Any]]:
    """What verl wrote of its responses, in the order of the steps, with this package's names.

    Raises:
        ValueError: a file cannot be read.
    """
    found = []
    for name, split in _SPLIT_OF.items():
        for file in (folder / name).glob("*.jsonl"):
            for record in read_jsonl(file):
                found.append(
                    {
                        "step": record["step"],
                        "split": split,
                        "uid": record.get("uid"),
                        "prompt": record.get("input", ""),
                        "response": record.get("output", ""),
                        "reward": record.get("score"),
                    }
                )
    return sorted(found, key=lambda sample: int(sample["step"]))
