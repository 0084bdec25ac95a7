"""Rows that a program holds: a list of dicts, an Arrow table, a pandas frame or a Hugging Face data set, as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gspo.data.rows import DataError, Table, cells, refuse_twice_named

__all__ = ["are_files", "table_of"]

_ACCEPTED = "a list of dicts, a datasets.Dataset, a pandas DataFrame, a pyarrow Table, or the names of files"


def are_files(given: Any) -> bool:
    """Whether these are names of files: a text, a path, or a sequence of them."""
    if isinstance(given, str) or hasattr(given, "__fspath__"):
        return True
    return isinstance(given, Sequence) and all(isinstance(name, str) or hasattr(name, "__fspath__") for name in given)


def table_of(given: Any, label: str, max_rows: int = -1) -> Table:
    """The rows of an object; the object is not changed.

    Args:
        given: a sequence of mappings, a `pyarrow.Table`, or what has `to_list()` (datasets) or `to_dict("records")`
            (pandas).
        label: what it is called in messages and in the rows' uids.
        max_rows: take the first rows only; -1 takes all.

    Raises:
        DataError: it is of another kind, or has no rows.
    """
    columns, rows = _columns_and_rows(given, label)
    if not rows:
        raise DataError(f"{label} has no rows: it needs at least one")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError.at(label, number, f"is a {type(row).__name__}, not a dict: give {{'prompt': ...}}")
    kept = rows if max_rows < 0 else rows[:max_rows]
    return Table(None, label, columns, [dict(row) for row in kept])


def _columns_and_rows(given: Any, label: str) -> tuple[tuple[str, ...], list[Any]]:
    if isinstance(given, pa.Table):
        return tuple(given.column_names), cells(given, label)
    if isinstance(given, (str, bytes)):
        raise DataError(f"{label} is a text, not rows: give {_ACCEPTED}")
    if isinstance(given, Mapping):
        parts = ", ".join(map(str, given))
        hint = f"choose one of its parts, as in {label}[{next(iter(given), 'train')!r}]" if parts else "give rows"
        raise DataError(f"{label} is a {type(given).__name__} of {parts or 'nothing'}: {hint}, or give {_ACCEPTED}")
    if hasattr(given, "column_names") and hasattr(given, "to_list"):  # a datasets.Dataset
        return tuple(given.column_names), given.to_list()
    if hasattr(given, "columns") and hasattr(given, "to_dict"):  # a pandas DataFrame
        refuse_twice_named(map(str, given.columns), label)
        rows = [{str(key): _present(value) for key, value in row.items()} for row in given.to_dict("records")]
        return tuple(map(str, given.columns)), rows
    if isinstance(given, Sequence):
        names = dict.fromkeys(str(key) for row in given if isinstance(row, Mapping) for key in row)
        return tuple(names), list(given)
    raise DataError(f"{label} is a {type(given).__name__}: give {_ACCEPTED}")


def _present(value: Any) -> Any:
    """A cell of a frame as a file would give it: arrays as lists, and None for pandas' marks of a missing value."""
    if hasattr(value, "tolist"):  # numpy's arrays and numbers, of which parquet's lists are made
        value = value.tolist()
    if isinstance(value, list):
        return [_present(item) for item in value]
    if isinstance(value, dict):
        return {key: _present(item) for key, item in value.items()}
    # NaN and NaT do not equal themselves; NA says no to every comparison.
    if type(value).__name__ in ("NAType", "NaTType") or (isinstance(value, float) and value != value):
        return None
    return value
