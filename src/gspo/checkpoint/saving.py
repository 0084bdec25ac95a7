"""Writes checkpoints whole or not at all.

A checkpoint is made under a temporary name in the same folder, forced onto the disk and renamed; then the pointer is
replaced in the same way; only then are older checkpoints deleted. What a kill leaves behind, the next save clears away.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gspo.checkpoint.files import CheckpointError, check_json, sync, write_tensors
from gspo.checkpoint.loading import FORMAT_VERSION, POINTER, REPLACED, ROOT, STATE, checkpoint_folders
from gspo.checkpoint.manifest import write_manifest

__all__ = ["save_checkpoint"]

_TEMPORARY = ".tmp-"
_ENTRY_NAME = re.compile(r"[A-Za-z0-9_-]+")


def save_checkpoint(
    run_dir: Path | str,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    hf_export: Callable[[Path], None] | None = None,
    keep: int | None = None,
) -> Path:
    """Writes `RUN/checkpoints/global_step_<step>`; killed at any moment, the previous checkpoint still loads.

    One process writes. A checkpoint of the same step is replaced. Checkpoints of later steps, left when a run was
    resumed from an earlier one, are not touched.

    Args:
        tensors: entry name to named tensors; each entry becomes one safetensors file.
        state: everything else, as JSON.
        hf_export: called with an empty folder inside the checkpoint, to write the model for Hugging Face.
        keep: how many checkpoints up to this step stay, this one included; None keeps all.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: an argument cannot be saved exactly; nothing on disk has changed.
    """
    if step < 0:
        raise CheckpointError(f"step is {step}; a checkpoint's step is zero or more")
    if keep is not None and keep < 1:
        raise CheckpointError(f"keep is {keep}; keep at least 1 checkpoint, or None to keep all")
    for name in tensors:
        if not _ENTRY_NAME.fullmatch(name):
            raise CheckpointError(f"tensors entry {name!r} cannot name a file; use letters, digits, '_' and '-'")
    check_json(state, "state")
    root = Path(run_dir) / ROOT
    root.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(root)
    target = root / f"global_step_{step}"
    temporary = root / f"{_TEMPORARY}{target.name}"
    _write_folder(temporary, step, tensors, state, hf_export)
    _put_in_place(temporary, target)
    _write_pointer(root, step)
    if keep is not None:
        for _, folder in [(at, folder) for at, folder in checkpoint_folders(root) if at <= step][keep:]:
            _delete(folder)
    return target


def _write_folder(
    folder: Path,
    step: int,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    hf_export: Callable[[Path], None] | None,
) -> None:
    folder.mkdir()
    for name, entry in tensors.items():
        write_tensors(folder / f"{name}.safetensors", entry)
    if hf_export is not None:
        exported = folder / "huggingface"
        exported.mkdir()
        hf_export(exported)
    content = {"format": FORMAT_VERSION, "step": step, "tensors": list(tensors), "state": state}
    (folder / STATE).write_text(json.dumps(content, indent=1), encoding="utf-8")
    write_manifest(folder)
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def _put_in_place(temporary: Path, target: Path) -> None:
    """Renames the finished folder. A folder cannot be renamed over another, so an old one is renamed first."""
    aside = target.with_name(target.name + REPLACED)
    if target.exists():
        os.replace(target, aside)
    os.replace(temporary, target)
    sync(target.parent)
    if aside.exists():
        _delete(aside)


def _write_pointer(root: Path, step: int) -> None:
    temporary = root / f"{_TEMPORARY}{POINTER}"
    temporary.write_text(f"{step}\n", encoding="utf-8")
    sync(temporary)
    os.replace(temporary, root / POINTER)
    sync(root)


def _delete(folder: Path) -> None:
    """Deletes a folder by way of a temporary name, so that half of it never looks like a checkpoint."""
    doomed = folder.with_name(f"{_TEMPORARY}deleted-{folder.name}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _clear_leftovers(root: Path) -> None:
    """Removes what a killed save left, and puts a checkpoint that stood aside back if nothing has replaced it."""
    for path in sorted(root.iterdir()):
        if path.name.startswith(_TEMPORARY):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.name.endswith(REPLACED):
            target = path.with_name(path.name.removesuffix(REPLACED))
            if target.exists():
                _delete(path)
            else:
                os.replace(path, target)
