"""The checksums of a checkpoint: SHA256SUMS in its folder, as `sha256sum -c SHA256SUMS` reads it.

A changed byte in a weight is a number like any other, and would be trained on; only a checksum tells.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from gspo.checkpoint.files import DamagedError

__all__ = ["MANIFEST", "check_manifest", "write_manifest"]

MANIFEST = "SHA256SUMS"


def write_manifest(folder: Path) -> None:
    """Writes the checksum of every file in the folder and below it; the last file of a checkpoint to be written."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{_digest(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    (folder / MANIFEST).write_text("".join(lines), encoding="utf-8")


def check_manifest(folder: Path) -> None:
    """Holds that each file is what was written. Files that are not in the manifest are the user's own.

    Raises:
        DamagedError: a file is missing or not the same, or the manifest is; names it.
    """
    manifest = folder / MANIFEST
    if not manifest.is_file():
        raise DamagedError(f"{manifest} is missing: put it back")
    for line in manifest.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = folder / name
        if not name or not path.is_file():
            raise DamagedError(f"{path} is missing: put it back" if name else f"{manifest} is damaged")
        if _digest(path) != digest:
            raise DamagedError(f"{path} is damaged: its sha256 is not the one in {MANIFEST}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
