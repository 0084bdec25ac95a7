"""The journal of a collection: one line of JSON for each response, on the disk before the next is asked for.

The first line holds the settings that a response depends on. Then come {row, sample, text, finish_reason} for a
response and {row, sample, error} for a failure. A kill can cut the last line only; it is taken off when the journal is
opened again, and its response is asked for again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gspo.data.rows import DataError
from gspo.locks import Held, held

__all__ = ["Journal", "TeacherResponse"]


@dataclass(frozen=True)
class TeacherResponse:
    """What the teacher wrote, and why it stopped ("length": cut at the limit of tokens)."""

    text: str
    finish_reason: str | None


class Journal:
    """An append-only file of responses, safe to write from several threads; one process at a time.

    Attributes:
        path: the file.
        responses: what has been collected, by (row, sample).
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Opens the journal, or starts it.

        Raises:
            DataError: another process has it open, it was written with other settings, or a line is damaged.
        """
        self.path = path
        self.responses: dict[tuple[int, int], TeacherResponse] = {}
        self._write_lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as opened:
            try:
                opened.enter_context(held(path.with_name(f".{path.name}.lock")))
            except Held as error:
                raise DataError(f"{path} is in use by {error.holder}: wait for it, or name another --out") from None
            self._file = opened.enter_context(open(path, "a+b"))
            self._read(dict(settings))
            self._opened = opened.pop_all()

    def add(self, row: int, sample: int, response: TeacherResponse) -> None:
        """Keeps a response: when this returns it is on the disk."""
        fields = {"text": response.text, "finish_reason": response.finish_reason}
        self._append({"row": row, "sample": sample, **fields})
        self.responses[row, sample] = response

    def add_error(self, row: int, sample: int, error: str) -> None:
        """Notes a failure, for the reader of the file: the response is asked for again next time."""
        self._append({"row": row, "sample": sample, "error": error})

    def close(self) -> None:
        """Closes the file, which lets another process have it."""
        self._opened.close()

    def _read(self, settings: dict[str, Any]) -> None:
        self._file.seek(0)
        lines = self._file.read().split(b"\n")
        torn = lines.pop()  # the text after the last line feed: nothing, unless a write was cut short
        if torn:
            self._file.truncate(self._file.tell() - len(torn))
        if not lines:
            self._append({"settings": settings})
            self._sync_folder()
            return
        for number, line in enumerate(lines[1:], start=2):
            entry = self._parse(number, line)
            if "error" not in entry:
                self._take(number, entry)
        found = self._parse(1, lines[0]).get("settings")
        if isinstance(found, dict) and found != settings and not self.responses:
            self._file.truncate(0)  # a wrong address or model: no response depends on it
            self._append({"settings": settings})
        else:
            self._check_settings(found, settings)

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            entry = json.loads(line)
        except ValueError as error:
            raise self._damaged(number) from error
        if not isinstance(entry, dict):
            raise self._damaged(number)
        return entry

    def _take(self, number: int, entry: dict[str, Any]) -> None:
        row, sample, text = (entry.get(key) for key in ("row", "sample", "text"))
        if not isinstance(row, int) or not isinstance(sample, int) or not isinstance(text, str):
            raise self._damaged(number)
        if (row, sample) in self.responses:
            raise DataError(f"{self.path}, line {number}: row {row}, sample {sample} is there twice: remove the line")
        self.responses[row, sample] = TeacherResponse(text, entry.get("finish_reason"))

    def _damaged(self, number: int) -> DataError:
        return DataError(f"{self.path}, line {number} is damaged: remove the line, or the file to collect again")

    def _check_settings(self, found: Any, settings: dict[str, Any]) -> None:
        if not isinstance(found, dict):
            raise self._damaged(1)
        for key in sorted(settings.keys() | found.keys()):
            if settings.get(key) != found.get(key):
                raise DataError(
                    f"{self.path} was collected with {key} {found.get(key)!r}, and this is {settings.get(key)!r}: "
                    "use the same, name another --out, or remove the journal to collect again"
                )

    def _append(self, entry: dict[str, Any]) -> None:
        line = json.dumps(entry, ensure_ascii=True).encode() + b"\n"
        with self._write_lock:
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _sync_folder(self) -> None:
        """A new file's name is on the disk only when its folder is."""
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
