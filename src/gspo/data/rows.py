"""Rows of parquet, json and jsonl files, with errors that name the file and the row (rows are counted from 0)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gspo.config.paths import expanded
from gspo.data.files import DataError, check_path, kind

__all__ = ["DataError", "Table", "cells", "read_table", "read_tables", "refuse_twice_named"]


@dataclass(frozen=True)
class Table:
    """The rows of one file, or of an object.

    Attributes:
        path: the file; None for rows that a program holds.
        label: the shortest end of its path that no other file of the same list shares, or what the rows are called;
            starts the rows' uids.
        columns: the names of the columns.
        rows: one dict for each row; a column may be absent from a row of json.
    """

    path: Path | None
    label: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]

    @property
    def place(self) -> str:
        """What errors call it: the file's path, or the label."""
        return self.label if self.path is None else str(self.path)

    @property
    def source(self) -> str:
        """The `data_source` of rows that name none."""
        return self.label if self.path is None else self.path.stem


def read_tables(files: str | Path | Sequence[str | Path], max_rows: int = -1) -> list[Table]:
    """Reads files in the order given.

    Args:
        files: a file or several.
        max_rows: read the first rows only, over all the files together; -1 reads all.

    Raises:
        DataError: no file is named, one is named twice, or one cannot be read (see `read_table`).
    """
    names = [files] if isinstance(files, (str, Path)) else list(files)
    if not names:
        raise DataError("no data file is named: set data.train_files to a .parquet, .json or .jsonl file")
    paths = [expanded(name, "data") for name in names]
    resolved = [path.resolve() for path in paths]
    for path, full in zip(paths, resolved, strict=True):
        if resolved.count(full) > 1:
            raise DataError(f"{path} is named more than once: name each file once")
    tables: list[Table] = []
    left = max_rows
    for path, label in zip(paths, _labels(resolved), strict=True):
        table = read_table(path, label)
        if max_rows >= 0:
            table = Table(table.path, table.label, table.columns, table.rows[:left])
            left -= len(table.rows)
        tables.append(table)
    return tables


def read_table(path: Path, label: str | None = None) -> Table:
    """Reads one file.

    Raises:
        DataError: the file is missing, a folder, of another kind, unreadable or without rows.
    """
    check_path(path)
    columns, rows = _read_parquet(path) if kind(path) == ".parquet" else _read_json(path)
    if not rows:
        raise DataError(f"{path} has no rows: it needs at least one")
    return Table(path, label or path.name, columns, rows)


def refuse_twice_named(columns: Iterable[str], place: str) -> None:
    """Holds that each column has a name of its own: of two with one name, a row would keep the last.

    Raises:
        DataError: two have the same name.
    """
    for name, count in Counter(columns).items():
        if count > 1:
            raise DataError(f"{place} has {count} columns {name!r}: rename them, or take out all but one")


def cells(table: pa.Table, place: str) -> list[dict[str, Any]]:
    """The rows of an Arrow table as dicts; maps are dicts too.

    Raises:
        DataError: two columns have the same name, or Python has nothing for a cell (a time in nanoseconds, a year
            beyond 9999, text that is not UTF-8); names the row and the column.
    """
    refuse_twice_named(table.column_names, place)
    columns = [_column(column, name, place) for name, column in zip(table.column_names, table.columns, strict=True)]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _column(column: pa.ChunkedArray, name: str, place: str) -> list[Any]:
    """All the cells of a column; where that fails, one by one, to name the row."""
    try:
        values: list[Any] = column.to_pylist(maps_as_pydicts="strict")
        return values
    except (ValueError, OverflowError, KeyError) as whole:
        for number, cell in enumerate(column):
            try:
                cell.as_py(maps_as_pydicts="strict")
            except (ValueError, OverflowError, KeyError) as error:
                raise DataError.at(
                    place,
                    number,
                    f"the column {name!r} ({column.type}) cannot be read ({_one_line(error)}): cast it to a text or "
                    "a number, or leave it out of the file",
                ) from error
        raise DataError(f"{place}: the column {name!r} ({column.type}) cannot be read ({_one_line(whole)})") from whole


def _labels(paths: Sequence[Path]) -> list[str]:
    """For each path the shortest run of its last parts that ends no other path."""

    def label(path: Path) -> str:
        others = [other.parts for other in paths if other != path]
        for size in range(1, len(path.parts) + 1):
            end = path.parts[-size:]
            if all(other[-size:] != end for other in others):
                return "/".join(end)
        return str(path)

    return [label(path) for path in paths]


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _read_parquet(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    try:
        # Not pq.read_table, which makes columns of a path's folders (`split=train/x.parquet`).
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as parquet ({_one_line(error)}): write it again") from error
    return tuple(table.column_names), cells(table, str(path))


def _read_json(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """A .json file holds one list of objects; a .jsonl file one object a line, blank lines left out of the count."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # with or without a byte order mark
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error}): write it again as UTF-8") from error
    if kind(path) == ".json":
        try:
            rows = _parse(text)
        except ValueError as error:
            raise DataError(f"{path} is not valid JSON ({error}); for one object a line name it .jsonl") from error
        if not isinstance(rows, list):
            raise DataError(f"{path} {_no_list(rows)}")
    else:
        # Not splitlines(): a JSON text may hold other line separators, such as U+2028.
        rows = [_parse_line(path, number, line) for number, line in enumerate(filter(str.strip, text.split("\n")))]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError.at(str(path), number, f"is a {type(row).__name__}, not an object: write {{...}}")
    return tuple(dict.fromkeys(key for row in rows for key in row)), rows


def _no_list(content: Any) -> str:
    """What is wrong with the content of a .json file that is no list, and where its rows may be."""
    if isinstance(content, dict):
        for key, value in content.items():
            if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
                return f"is one object, whose key {key!r} has a list of {len(value)} rows: write that list alone"
        if content and all(isinstance(value, list) for value in content.values()):
            return f"is one object of columns ({', '.join(content)}): write a list of rows, [{{...}}, {{...}}]"
        return f"is one object ({', '.join(content)}), not a list of rows: write [{{...}}], or name the file .jsonl"
    return f"holds a {type(content).__name__}, not a list of rows: write [{{...}}, {{...}}]"


def _parse_line(path: Path, number: int, line: str) -> Any:
    try:
        return _parse(line)
    except ValueError as error:
        raise DataError.at(str(path), number, f"is not valid JSON ({error}): correct or remove the line") from error


def _parse(text: str) -> Any:
    """A JSON text.

    Raises:
        ValueError: it is none, is nested too deeply to be read, or has an object with a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise ValueError("it is nested thousands of levels deep") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"an object has the key {twice!r} twice: keep one")
    return entries
