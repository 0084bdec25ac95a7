"""A model folder of any checkpoint: what a run writes at its end, of any of its steps."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from gspo.checkpoint import Checkpoint, CheckpointError, find_latest, load_checkpoint
from gspo.config import Config, load_config
from gspo.config.paths import expanded
from gspo.config.schema import ModelConfig
from gspo.models import Policy, load_actor_tokenizer, load_policy
from gspo.trainer.trained import export_policy

__all__ = ["began_with", "export_checkpoint", "is_checkpoint", "load_weights"]

_CHECKPOINT_NAME = re.compile(r"global_step_\d+")
_REMEDY = (
    "call gspo in the folder where the run was started, or name the model by --set actor_rollout_ref.model.path=FOLDER"
)


def export_checkpoint(
    source: Path | str,
    config: Config,
    *,
    step: int | None = None,
    out: Path | str | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the model of a checkpoint as a Hugging Face folder, with the bytes of the run's own export.

    Args:
        source: a run's folder, whose newest checkpoint is taken, or a checkpoint's.
        config: what the user has set of `actor_rollout_ref.model` replaces what the run's `config.yaml` says.
        step: the step of the checkpoint, where `source` is a run.
        out: where to; None: RUN/huggingface for the newest checkpoint of a run, RUN/huggingface-step-N for another.
        say: called with a line for each damaged checkpoint that is passed over.

    Returns:
        the folder.

    Raises:
        ValueError: there is no such checkpoint, the model that the run began with is not there, or `out` holds
            something else; says what to do.
    """
    path = expanded(str(source), "the run or checkpoint")
    checkpoint = _find(path, step, say)
    run = _run_of(checkpoint)
    newest = step is None and not is_checkpoint(path)
    default = run / ("huggingface" if newest else f"huggingface-step-{checkpoint.step}")
    folder = default if out is None else expanded(str(out), "--out")
    _check_out(folder)
    model = began_with(checkpoint, config)
    try:
        tokenizer = load_actor_tokenizer(model)
        policy = load_policy(model, tokenizer, "cpu", 0, train=False)
    except ValueError as error:
        raise ValueError(f"{checkpoint.path}: {error}. Its run began with {model.path}: {_REMEDY}") from error
    load_weights(policy, checkpoint, model)
    asked = config.trainer.save_hf_dtype or load_config(str(run), "config", external=False).trainer.save_hf_dtype
    export_policy(policy, tokenizer, folder, asked)
    return folder


def is_checkpoint(path: Path) -> bool:
    """Whether this folder is a checkpoint, by its content or its name."""
    return (path / "state.json").is_file() or _CHECKPOINT_NAME.fullmatch(path.resolve().name) is not None


def _run_of(checkpoint: Checkpoint) -> Path:
    return checkpoint.path.resolve().parent.parent


def _find(path: Path, step: int | None, say: Callable[[str], None]) -> Checkpoint:
    if not path.is_dir():
        raise ValueError(
            f"there is no folder {path}: give a run's folder, or a checkpoint RUN/checkpoints/global_step_N"
        )
    if is_checkpoint(path):
        if step is not None:
            raise ValueError(f"{path} is one checkpoint: give its run's folder with --step {step}, or leave --step out")
        return load_checkpoint(path)
    root = path / "checkpoints"
    there = sorted(
        int(folder.name.rpartition("_")[2]) for folder in root.glob("global_step_*") if is_checkpoint(folder)
    )
    if step is not None:
        if step not in there:
            listed = ", ".join(map(str, there)) or "none"
            raise ValueError(f"{path} has no checkpoint of step {step} (its steps: {listed}): give --step one of them")
        return load_checkpoint(root / f"global_step_{step}")
    latest = find_latest(path)
    if latest.checkpoint is None:
        found = f" ({'; '.join(latest.warnings)})" if latest.warnings else ""
        raise ValueError(
            f"{path} has no complete checkpoint{found}: give the folder of a run (trainer.default_local_dir) that has "
            "one, or let it train on"
        )
    for line in latest.warnings:
        say(line)
    return latest.checkpoint


def _check_out(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--out {folder} is a file: name a folder")
    if is_checkpoint(folder):
        raise ValueError(f"--out {folder} is a checkpoint, which must stay as it is: name another folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "config.json").is_file():
        raise ValueError(f"--out {folder} holds other files than a model's: name a new folder")


def began_with(checkpoint: Checkpoint, config: Config) -> ModelConfig:
    """How the model of a checkpoint is loaded: as its run's `config.yaml` says, but for what the user has set.

    Raises:
        CheckpointError: the checkpoint has no policy, or is not in a run's folder.
    """
    run = _run_of(checkpoint)
    if "actor" not in checkpoint.tensors:
        raise CheckpointError(f"{checkpoint.path} holds no actor.safetensors: give a checkpoint of a training run")
    if not (run / "config.yaml").is_file():
        raise CheckpointError(
            f"{run / 'config.yaml'} is missing, which names the model that the checkpoint is of: "
            "keep the checkpoint in its run's folder"
        )
    model = load_config(str(run), "config", external=False).policy_model
    return replace(model, **_user_set(config))


def _user_set(config: Config) -> dict[str, Any]:
    """The entries of `actor_rollout_ref.model` that the user has set."""
    model = config.policy_model
    return {
        field.name: getattr(model, field.name)
        for field in fields(model)
        if any(f"{key}.".startswith(f"{model.key(field.name)}.") for key in config.user_set)
    }


def load_weights(policy: Policy, checkpoint: Checkpoint, model: ModelConfig) -> None:
    """Gives a policy that was loaded as `model` says the weights of a checkpoint.

    Raises:
        CheckpointError: they are of another model.
    """
    try:
        policy.model.load_state_dict(checkpoint.tensors["actor"])
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {checkpoint.path} are of another model than {model.path}, which the run's config.yaml "
            "names: is it still the model that the run began with? Else name that by --set "
            f"actor_rollout_ref.model.path=FOLDER ({str(error).splitlines()[-1].strip()})"
        ) from error
