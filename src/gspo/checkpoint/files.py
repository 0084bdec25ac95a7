"""The files of a checkpoint: JSON that comes back equal, safetensors that keep ties, and what a disk refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "CheckpointError",
    "DamagedError",
    "Head",
    "check_json",
    "check_tensors",
    "digest",
    "read_heads",
    "read_tensors",
    "replace_text",
    "sync",
    "write_tensors",
    "writing",
]


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; the message names the file or key and what to do."""


class DamagedError(CheckpointError):
    """A file of a checkpoint is missing or not what was written; the message names it, and not what to do."""


def check_json(value: Any, where: str) -> None:
    """Raises CheckpointError unless `value` comes back from JSON equal and of the same types (NaN and inf do)."""
    if isinstance(value, dict):
        for key, item in value.items():
            if type(key) is not str:
                raise CheckpointError(f"{where} has the key {key!r}, which JSON would turn into text; use a string key")
            check_json(item, f"{where}.{key}")
    elif type(value) is list:
        for index, item in enumerate(value):
            check_json(item, f"{where}[{index}]")
    elif value is not None and type(value) not in (str, int, float, bool):
        raise CheckpointError(
            f"{where} is a {type(value).__name__}, which JSON cannot hold exactly; "
            "give dict, list, str, int, float, bool or None, and tensors under `tensors`"
        )


def sync(path: Path) -> None:
    """Forces a file's bytes, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within it a file or folder is written; what Python or safetensors say when that fails becomes one line.

    Raises:
        CheckpointError: it cannot be written; names it, and says whether the disk is full.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has an error type of its own, with the system's number in its text alone.
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error).strip()
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "(os error 28)" in reason
        if not full:
            raise CheckpointError(f"{path} could not be written ({reason}): see that it can be, and go on") from error
        there = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(there).free / 2**20
        raise CheckpointError(
            f"{path} could not be written: the disk is full ({free:.0f} MiB are free). Make room; the same command "
            "then goes on"
        ) from error


def replace_text(path: Path, text: str) -> None:
    """Replaces a text file, or makes it: killed at any moment, it is the old one or the new one.

    Raises:
        CheckpointError: the disk does not take it; the old file is as it was.
    """
    draft = path.with_name(f".{path.name}.tmp")
    with writing(path):
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        os.replace(draft, path)
        sync(path.parent)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes one safetensors file.

    Names that are the same tensor (tied weights) are stored once and come back as the same tensor. Tensors that
    overlap in any other way are stored apart, each with its own values.
    """
    stored: dict[str, Tensor] = {}
    first_with: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach()
        storage = tensor.untyped_storage().data_ptr()
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and place in first_with:
            aliases[name] = first_with[place]
            continue
        first_with[place] = name
        stored[name] = tensor.contiguous() if storage not in storages else tensor.contiguous().clone()
        storages.add(storage)
    with writing(path):
        save_file(stored, path, metadata={"aliases": json.dumps(aliases)})


def _unreadable(path: Path, error: Exception) -> DamagedError:
    return DamagedError(f"{path} is not a readable safetensors file ({error}): it is truncated or damaged")


def check_tensors(path: Path) -> None:
    """Raises DamagedError unless the file's header is sound and covers the file's length exactly."""
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Reads one file of `write_tensors` onto the CPU, tied names as the same tensor.

    Raises:
        DamagedError: the file is missing, truncated or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
            tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return tensors | {name: tensors[original] for name, original in aliases.items()}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """A checksum of named tensors: their names, types, shapes and bits, in the order of the names."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class Head(NamedTuple):
    """What the head of a file says of a tensor: its shape, and its type in safetensors' names ("F32", "BF16")."""

    shape: tuple[int, ...]
    dtype: str


def read_heads(path: Path) -> dict[str, Head]:
    """Shape and type of each tensor of a file of `write_tensors`, from its head alone.

    Raises:
        DamagedError: the file is missing, truncated or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            heads = {name: Head(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return heads | {name: heads[original] for name, original in aliases.items()}
