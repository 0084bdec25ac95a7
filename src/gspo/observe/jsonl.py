"""JSON Lines files of a run: one JSON object a line, each with a `step`, cut back to the resumed step on resume.

Every line is valid JSON: NaN and the infinities, which JSON lacks, are written as null. A lone surrogate in a model's
text is written as its escape, so that no text can make a write fail.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

__all__ = ["open_jsonl", "read_jsonl", "readable_jsonl", "write_jsonl", "write_line"]


def _finite(value: Any) -> Any:
    """The value with every NaN and infinity, at any depth, replaced by None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def write_line(file: TextIO, record: Mapping[str, Any]) -> None:
    """Writes one record as one line and hands it to the operating system."""
    line = json.dumps(_finite(record), ensure_ascii=False, allow_nan=False) + "\n"
    try:
        file.write(line)
        file.flush()
    except OSError as error:  # which does not know its file: a full disk, say
        raise OSError(error.errno, error.strerror, file.name) from error


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The records of a file; a missing file has none.

    A last line without its line end is a write that was cut off (a killed run, or one that is writing now) and is
    left out.

    Raises:
        ValueError: a finished line is not a JSON object with a whole-numbered `step`; names the file and the line.
    """
    records, faults = readable_jsonl(path)
    if faults:
        raise ValueError(f"{faults[0]}; remove or repair the line")
    return records


def readable_jsonl(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The same, with the lines that cannot be read left out, and what is wrong with each of them."""
    if not path.exists():
        return [], []
    records, faults = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line.decode("utf-8"))
        except ValueError as error:  # undecodable bytes as well as malformed JSON
            faults.append(f"{path}, line {number}: not JSON ({error})")
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
        else:
            faults.append(f'{path}, line {number}: not an object with a whole "step"')
    return records, faults


def open_jsonl(path: Path, resume_step: int | None) -> TextIO:
    """Opens a file for appending, without the lines that the run is about to write again.

    Args:
        path: the file; its folder is made where it is missing.
        resume_step: the step of the checkpoint that the run goes on from: later lines are removed. None: a new run,
            and the file starts empty.
    """
    kept = [] if resume_step is None else [record for record in read_jsonl(path) if record["step"] <= resume_step]
    write_jsonl(path, kept)
    return _open(path, "a")


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Replaces a file by these records; its folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written next to the file and renamed: a kill in between loses nothing of what is kept.
    draft = path.with_name(path.name + ".tmp")
    with _open(draft, "w") as file:
        for record in records:
            write_line(file, record)
    os.replace(draft, path)


def _open(path: Path, mode: str) -> TextIO:
    # What `backslashreplace` makes of a lone surrogate is JSON's own escape of it.
    return open(path, mode, encoding="utf-8", errors="backslashreplace", newline="\n")  # type: ignore[return-value]
