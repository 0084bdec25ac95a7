"""reasoning-gym's procedural tasks as parquet: verifiable data without a download."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gspo.config.paths import expanded
from gspo.data.rows import DataError
from gspo.data.sources import Written, make_row, write_parquet

__all__ = ["write_reasoning_gym"]

# A task that repeats itself this often has, for what is asked of it, no further questions.
_DRAWS_PER_QUESTION = 20
# After each so many draws it is asked whether the rest of them can still be enough.
_LOOK_EVERY = 200
# New questions that a stretch of draws may have missed by chance: with 3 expected, none comes once in twenty times.
_BY_CHANCE = 3


def write_reasoning_gym(
    task: str,
    out_dir: str | Path,
    train_size: int = 1000,
    val_size: int = 100,
    seed: int = 1,
    task_config: Mapping[str, Any] | None = None,
    instruction: str = "",
) -> list[Written]:
    """Draws distinct questions of a task: the first `val_size` are test.parquet, the others train.parquet.

    No question is in both files, nor twice in one; and with another `train_size` the test file stays the same. The
    task's entry is kept as JSON text in `extra_info`, for its own scorer, with the task's settings.

    Args:
        task: a task's name, such as "chain_sum".
        out_dir: where the two files are written.
        train_size: rows of train.parquet.
        val_size: rows of test.parquet; 0 writes none.
        seed: of the draws.
        task_config: settings of the task, such as {"min_terms": 2}.
        instruction: put after each question, with a space.

    Raises:
        DataError: the task or a setting is unknown or refused, or there are not enough distinct questions.
    """
    if train_size < 1 or val_size < 0:
        raise DataError(f"train_size={train_size} must be 1 or more and val_size={val_size} 0 or more")
    folder, config = expanded(out_dir, "--out"), dict(task_config or {})
    total = train_size + val_size
    dataset = _create(task, config, size=total * _DRAWS_PER_QUESTION, seed=seed)
    questions, draws = _distinct(dataset, total)
    if len(questions) < total:
        raise DataError(
            f"{draws} draws of {task} gave only {len(questions)} distinct questions with these settings, of the "
            f"{total} asked for, and hardly a new one comes: ask for fewer with --train-size and --val-size, or widen "
            "the task with --set key=value"
        )
    splits = {"train": questions[val_size:], "test": questions[:val_size]}
    return [
        write_parquet(
            [_row(task, config, entry, split, number, instruction) for number, entry in enumerate(part)],
            folder / f"{split}.parquet",
        )
        for split, part in splits.items()
        if part
    ]


def _create(task: str, config: dict[str, Any], size: int, seed: int) -> Any:
    # Imported here: the package takes a second to load, and only this command needs it.
    from reasoning_gym.factory import DATASETS, create_dataset

    if task not in DATASETS:
        near = get_close_matches(task, DATASETS, n=5, cutoff=0.4)
        hint = f"the nearest: {', '.join(near)}" if near else f"it has: {', '.join(sorted(DATASETS))}"
        raise DataError(f"reasoning-gym has no task {task!r}; {hint}")
    known = [field.name for field in dataclasses.fields(DATASETS[task][1]) if field.name not in ("seed", "size")]
    for key in config:
        if key not in known:
            raise DataError(f"{task} has no setting {key!r}; its settings: {', '.join(known)}")
    try:
        return create_dataset(task, size=size, seed=seed, **config)
    except (AssertionError, TypeError, ValueError) as error:
        raise DataError(f"{task} refuses these settings ({error}): change them with --set key=value") from error


def _distinct(dataset: Any, total: int) -> tuple[list[dict[str, Any]], int]:
    """The first `total` distinct questions, and how many draws they took.

    Fewer where the task has no more, which shows early: new questions only become rarer, and once they come too rarely
    for the draws that are left, drawing on is in vain (a slow task would take hours over it).
    """
    found: dict[str, dict[str, Any]] = {}
    before = 0
    for draws in range(1, len(dataset) + 1):
        entry = dataset[draws - 1]
        found.setdefault(entry["question"], entry)
        if len(found) == total:
            return list(found.values()), draws
        if draws % _LOOK_EVERY == 0:
            rate = (len(found) - before + _BY_CHANCE) / _LOOK_EVERY
            if rate * (len(dataset) - draws) < total - len(found):
                return list(found.values()), draws
            before = len(found)
    return list(found.values()), len(dataset)


def _row(
    task: str, config: dict[str, Any], entry: dict[str, Any], split: str, number: int, instruction: str
) -> dict[str, Any]:
    answer = None if entry["answer"] is None else str(entry["answer"])
    try:
        text = json.dumps(_tag(entry))
    except TypeError as error:
        raise DataError(f"{task} cannot be kept in a file: its entries are not JSON ({error}); use another") from error
    return make_row(
        entry["question"],
        answer,
        data_source=f"reasoning_gym/{task}",
        ability="reasoning",
        instruction=instruction,
        extra_info={"split": split, "index": number, "task": task, "task_config": json.dumps(config), "entry": text},
        answer=answer,
    )


def _tag(value: Any) -> Any:
    """Marks tuples, which JSON would turn into lists: some of the scorers compare them."""
    if isinstance(value, tuple):
        return {"__tuple__": [_tag(item) for item in value]}
    if isinstance(value, list):
        return [_tag(item) for item in value]
    if isinstance(value, dict):
        return {key: _tag(item) for key, item in value.items()}
    return value
