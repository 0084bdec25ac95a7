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

from gspo.checkpoint.files import CheckpointError, check_json, replace_text, sync, write_tensors, writing
from gspo.checkpoint.loading import FORMAT_VERSION, POINTER, REPLACED, ROOT, STATE, checkpoint_folders
from gspo.checkpoint.manifest import write_manifest

__all__ = ["clear_drafts", "save_checkpoint"]

_TEMPORARY = ".tmp-"
# transformers repeats a `model_type` that it does not know, so it says this to whoever gives it the folder.
_HINT = "a checkpoint of a gspo run, of which this command makes a model folder:"
_ENTRY_NAME = re.compile(r"[A-Za-z0-9_-]+")


def save_checkpoint(
    run_dir: Path | str,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: dict[str, Any],
    hf_export: Callable[[Path], None] | None = None,
    keep: int | None = None,
    rolling: bool = False,
) -> Path:
    """Writes `RUN/checkpoints/global_step_<step>`; killed at any moment, the previous checkpoint still loads.

    One process writes. A checkpoint of the same step is replaced. Checkpoints of later steps, left when a run was
    resumed from an earlier one, are not touched.

    Args:
        tensors: entry name to named tensors; each entry becomes one safetensors file.
        state: everything else, as JSON.
        hf_export: called with an empty folder inside the checkpoint, to write the model for Hugging Face.
        keep: how many checkpoints up to this step stay, this one included; None keeps all.
        rolling: whether it makes room for later ones: before any checkpoint, one that is rolling stays.

    Returns:
        The checkpoint's folder.

    Raises:
        CheckpointError: an argument cannot be saved exactly, or the disk does not take it; the checkpoints that were
            there are there still.
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
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    _clear_leftovers(root)
    target = root / f"global_step_{step}"
    temporary = root / f"{_TEMPORARY}{target.name}"
    try:
        content = {"format": FORMAT_VERSION, "step": step, "tensors": list(tensors), "rolling": rolling, "state": state}
        _write_folder(temporary, content, tensors, hf_export)
        _put_in_place(temporary, target)
    except Exception:
        shutil.rmtree(temporary, ignore_errors=True)  # what a full disk took of it is room
        raise
    replace_text(root / POINTER, f"{step}\n")
    earlier = [folder for at, folder in checkpoint_folders(root) if at < step]
    for folder in [folder for folder in earlier if _is_rolling(folder)][1:]:
        _delete(folder)
        earlier.remove(folder)
    if keep is not None:
        for folder in earlier[keep - 1 :]:
            _delete(folder)
    return target


def clear_drafts(run_dir: Path | str) -> None:
    """Removes what saves that were killed have left half written; nothing that `find_latest` could have found."""
    root = Path(run_dir) / ROOT
    for path in root.glob(f"{_TEMPORARY}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _is_rolling(folder: Path) -> bool:
    """Whether a checkpoint makes room for later ones; one that cannot be read does not."""
    try:
        return bool(json.loads((folder / STATE).read_text(encoding="utf-8"))["rolling"])
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _write_folder(
    folder: Path,
    content: dict[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    hf_export: Callable[[Path], None] | None,
) -> None:
    with writing(folder):
        folder.mkdir()
    for name, entry in tensors.items():
        write_tensors(folder / f"{name}.safetensors", entry)
    if hf_export is not None:
        exported = folder / "huggingface"
        exported.mkdir()
        hf_export(exported)
    hint = {"model_type": f"{_HINT} gspo export RUN/checkpoints/global_step_{content['step']}"}
    for file, value in ((STATE, content), ("config.json", hint)):
        with writing(folder / file):
            (folder / file).write_text(json.dumps(value, indent=1), encoding="utf-8")
    write_manifest(folder)
    for path in [*folder.rglob("*"), folder]:
        with writing(path):  # a disk may find that it is full as late as here
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


def _delete(folder: Path) -> None:
    """Deletes a folder by way of a temporary name, so that half of it never looks like a checkpoint."""
    doomed = folder.with_name(f"{_TEMPORARY}deleted-{folder.name}")
    os.replace(folder, doomed)
    shutil.rmtree(doomed)


def _clear_leftovers(root: Path) -> None:
    """Removes what a killed save left, and puts a checkpoint that stood aside back if nothing has replaced it."""
    clear_drafts(root.parent)
    (root / f".{POINTER}.tmp").unlink(missing_ok=True)
    for path in sorted(root.glob(f"*{REPLACED}")):
        target = path.with_name(path.name.removesuffix(REPLACED))
        if target.exists():
            _delete(path)
        else:
            os.replace(path, target)
