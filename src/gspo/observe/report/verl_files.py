"""A run of verl as the report reads it: the files of verl's own loggers, in one folder.

metrics     `metrics*.jsonl` (several where a run was resumed), or a single file given by name: lines of verl's file
            logger, {"step": 3, "data": {...}}
samples     `rollouts/3.jsonl` (trainer.rollout_data_dir) and `validation/3.jsonl` (trainer.validation_data_dir)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gspo.observe.jsonl import readable_jsonl

__all__ = ["metric_files", "read_metrics", "verl_samples"]

_SPLIT_OF = {"rollouts": "train", "validation": "val"}


def metric_files(place: Path) -> list[Path]:
    """The files of a run's metrics, of this package's runs and of verl's alike; none where there are none.

    Args:
        place: the run's folder, or the file of its metrics.
    """
    if place.is_file() and place.suffix == ".jsonl" and place.name != "samples.jsonl":
        return [place]
    own = place / "metrics.jsonl"
    return [own] if own.is_file() else sorted(place.glob("metrics*.jsonl"))


def read_metrics(files: Sequence[Path]) -> tuple[list[dict[str, Any]], list[str]]:
    """One record for each line that can be read, and what is wrong with each other line."""
    read = [readable_jsonl(file) for file in files]
    records = [_flat(record) for found, _ in read for record in found]
    return records, [fault for _, faults in read for fault in faults]


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    data = record.get("data")
    if not isinstance(data, dict):
        return record
    numbers = {name: value for name, value in data.items() if value is None or isinstance(value, (int, float))}
    return {**numbers, "step": record["step"]}


def verl_samples(folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """What verl wrote of its responses, in the order of the steps, with this package's names; and what is damaged."""
    found, wrong = [], []
    for name, split in _SPLIT_OF.items():
        for file in (folder / name).glob("*.jsonl"):
            records, faults = readable_jsonl(file)
            wrong += faults
            for record in records:
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
    return sorted(found, key=lambda sample: int(sample["step"])), wrong
