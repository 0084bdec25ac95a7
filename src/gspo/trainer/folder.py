"""The folder of a run: which one it is, what to go on from in it, and what is logged to it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from gspo.checkpoint import Checkpoint, CheckpointError, clear_drafts, find_latest, load_checkpoint
from gspo.config import Config, ConfigError
from gspo.config.printing import shown
from gspo.config.schema import TrainerConfig
from gspo.locks import Held, held
from gspo.observe import ConsoleLogger, Tracker, make_tracker
from gspo.observe.jsonl import read_jsonl

__all__ = [
    "check_figures",
    "clear_unfinished",
    "find_checkpoint",
    "folder_of",
    "hold",
    "holds_run",
    "nothing_to_train",
    "open_tracker",
    "run_folder",
]


# What a run writes into its folder.
_PARTS = (
    "config.yaml",
    "config-*.yaml",
    "methods.json",
    "metrics.jsonl",
    "samples.jsonl",
    "tensorboard",
    "wandb*",
    "huggingface*",
    "initial_*",
    "report.html",
    "reward_output.txt",
    "finished",
)
_DRAFTS = (
    ".*.yaml.tmp",
    ".methods.json.tmp",
    "metrics.jsonl.tmp",
    "samples.jsonl.tmp",
    "huggingface*.tmp",
    "initial_*.tmp",
)


_KEY = "trainer.default_local_dir"


def folder_of(trainer: TrainerConfig) -> Path:
    """The run's folder, which need not be there yet."""
    return Path(trainer.default_local_dir or "runs")


def holds_run(folder: Path) -> bool:
    """Whether a run has written to this folder."""
    return (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()


def run_folder(trainer: TrainerConfig, checkpoint: Checkpoint | None, say: Callable[[str], None]) -> Path:
    """The run's folder, made where it is not there.

    What an earlier run left there, other than the one that goes on from `checkpoint`, is moved aside and never lost.
    """
    folder = folder_of(trainer)
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(f"{_KEY}={folder}: {part} is a file: name a folder", _KEY)
    used = holds_run(folder)
    goes_on = checkpoint is not None and checkpoint.path.resolve().is_relative_to(folder.resolve())
    try:
        if used and not goes_on:
            aside = _move_aside(folder)
            say(f"an earlier run was in {folder}; it is kept in {aside}")
        folder.resolve().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        raise ConfigError(
            f"{_KEY}={folder} cannot be used ({where}): name a folder that can be written to", _KEY
        ) from error
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{_KEY}={folder} is read-only: name a folder that can be written to", _KEY)
    return folder


def _move_aside(folder: Path) -> Path:
    """Moves an earlier run to FOLDER.previous-N; where the folder itself must stay, what a run writes into it.

    Raises:
        ConfigError: it cannot be moved; nothing is lost.
    """
    place = folder.resolve()  # a link to a folder stays one
    number = 1
    while (aside := place.with_name(f"{place.name}.previous-{number}")).exists():
        number += 1
    stays = Path.cwd().is_relative_to(place) or place.is_mount()
    with hold(folder):
        try:
            if stays:
                aside.mkdir()
                # Checkpoints first: what a kill leaves of the rest is still no run that could go on.
                for name in ("checkpoints", *_PARTS):
                    for part in place.glob(name):
                        part.rename(aside / part.name)
            else:
                place.rename(aside)
        except OSError as error:
            raise ConfigError(
                f"trainer.default_local_dir={folder}: the earlier run there cannot be moved to {aside} "
                f"({error.strerror}): move it yourself, or name another folder",
                "trainer.default_local_dir",
            ) from error
    return aside if folder.is_absolute() or stays else folder.with_name(aside.name)


def clear_unfinished(folder: Path) -> None:
    """Removes what a killed run was in the middle of writing; the folder is held."""
    clear_drafts(folder)
    for name in _DRAFTS:
        for draft in folder.glob(name):
            shutil.rmtree(draft) if draft.is_dir() else draft.unlink()


def check_figures(folder: Path) -> None:
    """Holds that what a resumed run adds to can be read, before it trains.

    Raises:
        ValueError: `metrics.jsonl` or `samples.jsonl` is damaged; names the line.
    """
    for name in ("metrics.jsonl", "samples.jsonl"):
        read_jsonl(folder / name)


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keeps other processes from training in this folder.

    Raises:
        ConfigError: another one does.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".lock"))
        except Held as error:
            raise ConfigError(f"{error.holder} trains in {folder}: wait for it, or name another {_KEY}", _KEY) from None
        except OSError as error:
            raise ConfigError(
                f"{_KEY}={folder} cannot be written to ({error.strerror}): name another folder", _KEY
            ) from error
        yield


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
