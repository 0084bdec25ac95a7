"""Finds and reads the checkpoints of a run.

RUN/checkpoints/latest_checkpointed_iteration.txt    the step of the last complete checkpoint
RUN/checkpoints/global_step_N/state.json             format version, step, tensor files, the caller's JSON state
RUN/checkpoints/global_step_N/NAME.safetensors       one file for each group of tensors
RUN/checkpoints/global_step_N/huggingface/           the export, where one was asked for
RUN/checkpoints/global_step_N/config.json            says `gspo export` to whoever gives the folder to transformers
RUN/checkpoints/global_step_N/SHA256SUMS             a checksum for each of these files
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from gspo.checkpoint.files import CheckpointError, DamagedError, Head, check_tensors, read_heads, read_tensors
from gspo.checkpoint.manifest import MANIFEST, check_files, read_manifest

__all__ = ["Checkpoint", "Latest", "find_latest", "load_checkpoint", "newest_step"]

FORMAT_VERSION = 2
ROOT = "checkpoints"
POINTER = "latest_checkpointed_iteration.txt"
STATE = "state.json"
# A checkpoint that is being replaced by another of the same step is renamed to this ending between two renames.
REPLACED = ".replaced"

_FOLDER_NAME = re.compile(r"global_step_(\d+)(\.replaced)?")


class _TensorFiles(Mapping[str, dict[str, Tensor]]):
    """The tensors of a checkpoint by entry name; a file is read each time its entry is asked for."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path = path
        self._names = names

    def __getitem__(self, name: str) -> dict[str, Tensor]:
        if name not in self._names:
            raise KeyError(f"{self._path} has no tensors {name!r}; it has {', '.join(self._names) or 'none'}")
        return read_tensors(self._path / f"{name}.safetensors")

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk.

    Attributes:
        path: its folder.
        step: the training step after which it was written.
        state: the JSON state, equal to what was saved.
        tensors: entry name to its tensors on the CPU; each access reads the file.
    """

    path: Path
    step: int
    state: dict[str, Any]
    tensors: Mapping[str, dict[str, Tensor]]

    def heads(self, name: str) -> dict[str, Head]:
        """Shapes and types of an entry's tensors, read from the head of its file."""
        return read_heads(self.path / f"{name}.safetensors")


class Latest(NamedTuple):
    """What `find_latest` found: the checkpoint to resume from, and a line for each one that it passed over."""

    checkpoint: Checkpoint | None
    warnings: list[str]


def load_checkpoint(path: Path | str) -> Checkpoint:
    """Opens a checkpoint folder (`.../global_step_N`) whose files are whole; tensors are read when they are asked for.

    Raises:
        CheckpointError: the folder or a file is missing, of another format version, truncated or damaged; names the
            newest checkpoint before it that is whole.
    """
    path = Path(path)
    try:
        return _open(path)
    except DamagedError as error:
        raise CheckpointError(f"{error}; {_whole_before(path)}") from error


def _whole_before(path: Path) -> str:
    """Which earlier checkpoint of the same run can be used."""
    match = _FOLDER_NAME.fullmatch(path.name)
    for step, folder in checkpoint_folders(path.parent):
        if match is None or step >= int(match[1]):
            continue
        try:
            _open(folder)
        except CheckpointError:
            continue
        return f"the newest whole checkpoint before it is {folder}"
    return "there is no whole checkpoint before it"


def _open(path: Path) -> Checkpoint:
    state_file = path / STATE
    if not path.is_dir():
        raise CheckpointError(f"{path} does not exist; give the folder of a checkpoint, RUN/{ROOT}/global_step_N")
    if not state_file.is_file():
        raise DamagedError(f"{state_file} is missing: {path.name} is not a complete checkpoint")
    has_manifest = (path / MANIFEST).is_file()
    if has_manifest:
        listed = read_manifest(path)
        check_files(path, listed, [STATE])
    content = _read_state(state_file)
    if content["format"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{state_file} has format version {content['format']!r} and this release reads {FORMAT_VERSION}; "
            "resume with the release of gspo that wrote it, or start from its huggingface folder as the model"
        )
    if not has_manifest:
        raise DamagedError(f"{path / MANIFEST} is missing: put it back")
    files = [f"{name}.safetensors" for name in content["tensors"]]
    for file in files:
        if not (path / file).is_file():
            raise DamagedError(f"{path / file} is missing: put it back")
        check_tensors(path / file)
    check_files(path, listed, dict.fromkeys([*files, *listed]))
    return Checkpoint(path, content["step"], content["state"], _TensorFiles(path, content["tensors"]))


def _read_state(file: Path) -> dict[str, Any]:
    """What `state.json` holds; of a release whose format is this one, everything that a checkpoint is made of."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:  # undecodable bytes as well as malformed JSON
        raise DamagedError(f"{file} is not JSON ({error}): it is damaged") from error
    if not isinstance(content, dict) or "format" not in content:
        raise DamagedError(f"{file} has no format version: it is damaged")
    kinds = {"step": int, "tensors": list, "state": dict}
    if content["format"] == FORMAT_VERSION:
        for key, kind in kinds.items():
            if not isinstance(content.get(key), kind):
                raise DamagedError(f"{file} has no {key}: it is damaged")
    return content


def checkpoint_folders(root: Path) -> list[tuple[int, Path]]:
    """(step, folder) of everything named like a checkpoint, newest step first; one set aside after its replacement."""
    if not root.is_dir():
        return []
    matches = ((_FOLDER_NAME.fullmatch(folder.name), folder) for folder in root.iterdir() if folder.is_dir())
    found = [(int(match[1]), match[2] is not None, folder) for match, folder in matches if match]
    return [(step, folder) for step, _, folder in sorted(found, key=lambda item: (-item[0], item[1]))]


def newest_step(run_dir: Path | str) -> int | None:
    """The step of the checkpoint that was written last, as the pointer says; None where there is none."""
    pointer = Path(run_dir) / ROOT / POINTER
    text = pointer.read_text(encoding="utf-8", errors="replace").strip() if pointer.is_file() else ""
    return int(text) if text.isdecimal() else None


def find_latest(run_dir: Path | str) -> Latest:
    """The checkpoint from which a run goes on: the one the pointer names, else the newest complete one before it.

    Checkpoints after the pointer belong to a continuation that was abandoned (or whose pointer was never written), so
    they come last. Incomplete or damaged ones are passed over, each with a line in `warnings`.
    """
    root = Path(run_dir) / ROOT
    folders = checkpoint_folders(root)
    pointer = root / POINTER
    warnings = []
    if pointer.is_file():
        text = pointer.read_text(encoding="utf-8", errors="replace").strip()
        if text.isdecimal():
            current = int(text)
            folders.sort(key=lambda item: item[0] > current)
            if all(step != current for step, _ in folders):
                warnings.append(f"{pointer} names step {current}, and there is no folder global_step_{current}")
        else:
            warnings.append(f"{pointer} holds {text!r} instead of a step; the newest complete checkpoint is used")
    for _, folder in folders:
        try:
            return Latest(load_checkpoint(folder), warnings)
        except CheckpointError as error:
            warnings.append(f"passed over {folder.name}: {error}")
    return Latest(None, warnings)
