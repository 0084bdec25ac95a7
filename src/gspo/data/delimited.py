"""Rows of .csv and .tsv files, for `gspo data jsonl`: every cell is a text, under the name in the first line."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from gspo.data.files import DELIMITED, DataError, check_path, kind
from gspo.data.rows import Table, read_table, refuse_twice_named

__all__ = ["read_any_table"]

# Of one cell: the csv module's own limit of 128 KiB is below a long document.
_LONGEST_CELL = 2**24


def read_any_table(path: Path) -> Table:
    """Reads a .parquet, .json, .jsonl, .csv or .tsv file. An empty cell of the last two counts as absent.

    Raises:
        DataError: the file cannot be read, or a line has more or fewer cells than there are columns; names the row.
    """
    check_path(path, DELIMITED)
    if kind(path) not in DELIMITED:
        return read_table(path)
    before = csv.field_size_limit(_LONGEST_CELL)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:  # with or without a byte order mark
            lines = csv.reader(file, delimiter="\t" if kind(path) == ".tsv" else ",", strict=True)
            columns = next(lines, [])
            refuse_twice_named(columns, str(path))
            rows = list(_rows(path, columns, lines))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as {kind(path)[1:]} in UTF-8 ({error}): write it again") from error
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{path} has no rows: its first line names the columns, and each further line is a row")
    return Table(path, path.name, tuple(columns), rows)


def _rows(path: Path, columns: list[str], lines: Iterator[list[str]]) -> Iterator[dict[str, str]]:
    for number, cells in enumerate(filter(None, lines)):
        if len(cells) != len(columns):
            raise DataError.at(
                str(path),
                number,
                f"has {len(cells)} cells, and the first line names {len(columns)} columns: put a cell with a comma, a "
                "quote or a line break in it into quotes",
            )
        yield {name: cell for name, cell in zip(columns, cells, strict=True) if cell}
