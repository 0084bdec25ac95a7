"""The folder of a run: which one it is, what to go on from in it, and what is logged to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gspo.checkpoint import CheckpointError, find_latest, load_checkpoint
from gspo.config import Config, ConfigError, render
from gspo.config.schema import to_dict
from gspo.observe import ConsoleLogger, Tracker, make_tracker

__all__ = ["nothing_to_train", "open_tracker", "run_folder", "where_to_resume"]


def run_folder(config: Config, checkpoint: Path | None, say: Callable[[str], None]) -> Path:
    """The run's folder with the resolved config in it.

    What an earlier run left there, other than the one that goes on from `checkpoint`, is moved aside and never lost.
    """
    folder = Path(config.trainer.default_local_dir or "runs")
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise ConfigError(
                f"trainer.default_local_dir={folder}: {part} is a file: name a folder", "trainer.default_local_dir"
            )
    used = (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()
    goes_on = checkpoint is not None and checkpoint.resolve().is_relative_to(folder.resolve())
    if used and not goes_on:
        number = 1
        while (aside := folder.with_name(f"{folder.name}.previous-{number}")).exists():
            number += 1
        folder.rename(aside)
        say(f"an earlier run stood in {folder}; it is kept in {aside}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(render(config), encoding="utf-8")
    return folder


def open_tracker(config: Config, folder: Path, resume_step: int | None, console: ConsoleLogger) -> Tracker:
    """The loggers that `trainer.logger` names."""
    trainer = config.trainer
    name = trainer.experiment_name or folder.name
    return make_tracker(trainer.logger, folder, trainer.project_name, name, to_dict(config), resume_step, console)


def where_to_resume(config: Config, kind: str) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and what finding it had to say.

    Raises:
        CheckpointError: the one that is named cannot be read, or it is not of this `kind` of run ("train" or "sft").
    """
    path, lines = _find_checkpoint(config)
    found = load_checkpoint(path).state.get("kind", kind) if path is not None else kind
    if found != kind:
        raise CheckpointError(
            f"{path} was written by gspo {found} and cannot be resumed by gspo {kind}: set trainer.default_local_dir "
            "to a folder of its own, or trainer.resume_mode=disable (the earlier run is moved aside)"
        )
    return path, lines


def nothing_to_train(step: int, total_steps: int) -> str:
    """What a run says that is done before it starts."""
    return (
        f"nothing to train: step {step} of {total_steps} is done. Raise trainer.total_training_steps or "
        "trainer.total_epochs, or set trainer.resume_mode=disable to start again"
    )


def _find_checkpoint(config: Config) -> tuple[Path | None, list[str]]:
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None, []
    if trainer.resume_mode == "resume_path":
        return load_checkpoint(trainer.resume_from_path or "").path, []
    latest = find_latest(Path(trainer.default_local_dir or "runs"))
    return latest.path, list(latest.warnings)
