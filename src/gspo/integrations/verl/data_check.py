"""The teacher's texts of the training files, checked before a cluster starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from gspo.config.paths import expanded
from gspo.data.rows import DataError, read_table
from gspo.integrations.verl.settings import GadSettings

__all__ = ["check_data"]

_REMEDY = "`gspo data teacher` collects a teacher's texts, gad.teacher_key names another column"


def check_data(config: Any, settings: GadSettings) -> int:
    """How many rows of the training files were looked at; files that verl fetches from elsewhere are left out.

    Raises:
        DataError: a row has no text in the teacher's column; names the file and the row, counted from 0.
    """
    files = config.data.train_files
    names = [files] if isinstance(files, str) else list(files)
    count = 0
    for name in names:
        if "://" in str(name):
            continue
        path = expanded(str(name), "data.train_files")
        for row, text in enumerate(_texts(path, settings.teacher_key)):
            if not isinstance(text, str) or not text.strip():
                what = "no text" if text is None else "an empty text" if isinstance(text, str) else f"{text!r}"
                raise DataError.at(str(path), row, f"{what} in the column {settings.teacher_key}; {_REMEDY}")
            count += 1
    return count


def _texts(path: Path, key: str) -> Iterator[Any]:
    """The teacher's column of a file, a part at a time."""
    if path.suffix != ".parquet" or not path.is_file():
        table = read_table(path)  # also says what is wrong with a file that is not there
        if key not in table.columns:
            raise _no_column(path, key, table.columns)
        yield from (row.get(key) for row in table.rows)
        return
    file = pq.ParquetFile(path)
    names = file.schema_arrow.names
    if key not in names:
        raise _no_column(path, key, names)
    for batch in file.iter_batches(columns=[key]):
        yield from batch.column(0).to_pylist()


def _no_column(path: Path, key: str, names: Any) -> DataError:
    return DataError(f"{path} has no column {key}, only {', '.join(names)}; {_REMEDY}")
