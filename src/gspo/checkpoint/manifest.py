"""The checksums of a checkpoint: SHA256SUMS in its folder, as `sha256sum -c SHA256SUMS` reads it.

A changed byte in a weight is a number like any other, and would be trained on; only a checksum tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from gspo.checkpoint.files import DamagedError, writing

__all__ = ["MANIFEST", "check_files", "read_manifest", "write_manifest"]

MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes the checksum of every file in the folder and below it; the last file of a checkpoint to be written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    with writing(folder / MANIFEST):
        (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, str]:
    """The checksum of each file that was written, by its name in the folder.

    Raises:
        DamagedError: the manifest is missing, or it is not one.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise DamagedError(f"{manifest} is missing: put it back")
    text = manifest.read_text(encoding="utf-8", errors="replace")
    lines = [line.partition("  ") for line in text.removesuffix("\n").split("\n")]
    if not all(digest and name for digest, _, name in lines):
        raise DamagedError(f"{manifest} is damaged: it is not a list of checksums and files")
    return {name: digest for digest, _, name in lines}


def check_files(folder: Path, listed: Mapping[str, str], names: Iterable[str]) -> None:
    """Holds that each of these files is what was written. Files that are not listed are the user's own.

    Args:
        folder: of the checkpoint.
        listed: the checksums, of `read_manifest`.
        names: the files to check; a line that is missing would let a damaged one pass.

    Raises:
        DamagedError: a file is missing, not listed or not the same; names it.
    """
    for name in names:
        path = folder / name
        if name not in listed:
            raise DamagedError(f"{folder / MANIFEST} is damaged: it has no line for {name}")
        if not _is_file(path):
            raise DamagedError(f"{path} is missing: put it back")
        if _digest(path) != listed[name]:
            raise DamagedError(f"{path} is damaged: its sha256 is not the one in {MANIFEST}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a damaged manifest may hold a name that no file can have
        return False


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DamagedError(f"{path} cannot be read ({error.strerror})") from error
