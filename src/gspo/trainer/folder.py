"""The folder of a run: which one it is, what to go on from in it, and what is logged to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gspo.checkpoint import Checkpoint, CheckpointError, find_latest, load_checkpoint
from gspo.config import Config, ConfigError, load_config, render
from gspo.config.printing import shown
from gspo.config.schema import TrainerConfig
from gspo.observe import ConsoleLogger, Tracker, make_tracker

__all__ = ["find_checkpoint", "folder_of", "hold", "nothing_to_train", "open_tracker", "run_folder", "write_config"]


_KEY = "trainer.default_local_dir"

# What a run writes into its folder.
_OWN_FILES = (
    "metrics.jsonl",
    "samples.jsonl",
    "config.yaml",
    "config-until-step-*.yaml",
    "checkpoints",
    "huggingface",
    "initial_model",
    "initial_tokenizer",
    "initial_critic",
    "report.html",
    "tensorboard",
    "wandb",
    "wandb_id.txt",
    "finished",
)


def folder_of(trainer: TrainerConfig) -> Path:
    """The run's folder, which need not be there yet."""
    return Path(trainer.default_local_dir or "runs")


def run_folder(trainer: TrainerConfig, checkpoint: Checkpoint | None, say: Callable[[str], None]) -> Path:
    """The run's folder, made where it is not there.

    What an earlier run left there, other than the one that goes on from `checkpoint`, is moved aside and never lost.
    """
    folder = folder_of(trainer)
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"{_KEY}={folder}: {part} is a file: name a folder", _KEY)
    used = (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()
    goes_on = checkpoint is not None and checkpoint.path.resolve().is_relative_to(folder.resolve())
    try:
        if used and not goes_on:
            with hold(folder):
                aside = _move_aside(folder)
            say(f"an earlier run was in {folder}; it is kept in {aside}")
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise ConfigError(
            f"{_KEY}={folder} cannot be used ({where}): name a folder that can be written to", _KEY
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{_KEY}={folder} is read-only: name a folder that can be written to", _KEY)
    return folder


def _move_aside(folder: Path) -> Path:
    """Moves the run in a folder to one next to it and returns that.

    The working directory cannot be renamed under the feet of this process and of the shell that it was called from:
    there the run's own files are moved, and what else is in the folder stays.
    """
    whole = folder.resolve()
    named = folder if folder.name not in ("", "..") else whole  # `.` has no name of its own
    number = 1
    while (aside := named.with_name(f"{named.name}.previous-{number}")).exists():
        number += 1
    if not Path.cwd().is_relative_to(whole):
        folder.rename(aside)
        return aside
    aside.mkdir()
    for pattern in _OWN_FILES:
        for file in sorted(folder.glob(pattern)):
            file.rename(aside / file.name)
    return aside


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in this folder.

    Raises:
        ConfigError: another one does.
    """
    try:
        file = (folder / ".lock").open("w")
    except OSError as error:
        raise ConfigError(
            f"{_KEY}={folder} cannot be written to ({error.strerror}): name another folder", _KEY
        ) from error
    with file as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(
                f"another process trains in {folder}: wait for it, or name another {_KEY}", _KEY
            ) from error
        yield


def write_config(folder: Path, config: Config, step: int) -> list[str]:
    """Writes `config.yaml`, once it is sure that steps are trained with it.

    Settings that an earlier part of the run was trained with and that differ are kept in `config-until-step-N.yaml`.

    Returns:
        what differs, to be said.
    """
    file = folder / "config.yaml"
    lines = []
    if file.exists():
        earlier = load_config(str(folder), "config", external=False)
        before, after = (_flat(shown(each)) for each in (earlier, config))
        changed = [
            f"{key}: {before.get(key)} -> {after.get(key)}"
            for key in sorted({*before, *after})
            if before.get(key) != after.get(key)
        ]
        if changed:
            kept = folder / f"config-until-step-{step}.yaml"
            file.rename(kept)
            lines.append(f"resumed with other settings (the earlier ones are in {kept.name}): {'; '.join(changed)}")
    file.write_text(render(config), encoding="utf-8")
    return lines


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of mappings by dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix.removesuffix("."): tree}
    return {name: value for key, child in tree.items() for name, value in _flat(child, f"{prefix}{key}.").items()}


def open_tracker(
    config: Config, folder: Path, resume_step: int | None, console: ConsoleLogger, only_validates: bool
) -> Tracker:
    """The loggers that `trainer.logger` names; where the run only validates, they add to what there is."""
    trainer = config.trainer
    return make_tracker(
        trainer.logger,
        folder,
        trainer.project_name,
        trainer.experiment_name or folder.name,
        shown(config),
        resume_step,
        console,
        amends=only_validates,
    )


def find_checkpoint(trainer: TrainerConfig, kind: str) -> tuple[Checkpoint | None, list[str]]:
    """The checkpoint to go on from, opened and verified, and what finding it had to say.

    Raises:
        CheckpointError: the one that is named cannot be read, or it is not of this `kind` of run ("train" or "sft").
    """
    found, lines = _find(trainer)
    wrote = found.state.get("kind", kind) if found is not None else kind
    if found is not None and wrote != kind:
        raise CheckpointError(
            f"{found.path} was written by gspo {wrote} and cannot be resumed by gspo {kind}: set "
            "trainer.default_local_dir to a folder of its own, or trainer.resume_mode=disable (the earlier run is "
            "moved aside)"
        )
    return found, lines


def nothing_to_train(step: int, total_steps: int) -> str:
    """What a run says that is done before it starts."""
    return (
        f"nothing to train: step {step} of {total_steps} is done. Raise trainer.total_training_steps or "
        "trainer.total_epochs, or set trainer.resume_mode=disable to start again"
    )


def _find(trainer: TrainerConfig) -> tuple[Checkpoint | None, list[str]]:
    if trainer.resume_mode == "disable":
        return None, []
    if trainer.resume_mode == "resume_path":
        return load_checkpoint(trainer.resume_from_path or ""), []
    latest = find_latest(folder_of(trainer))
    return latest.checkpoint, list(latest.warnings)
