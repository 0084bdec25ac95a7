"""The files of a checkpoint: JSON that comes back equal, safetensors that keep ties, and syncing to the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

__all__ = [
    "CheckpointError",
    "DamagedError",
    "check_json",
    "check_tensors",
    "read_shapes",
    "read_tensors",
    "sync",
    "write_tensors",
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


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a file of `write_tensors`, from its head alone.

    Raises:
        DamagedError: the file is missing, truncated or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            aliases = json.loads((file.metadata() or {}).get("aliases", "{}"))
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    return shapes | {name: shapes[original] for name, original in aliases.items()}
