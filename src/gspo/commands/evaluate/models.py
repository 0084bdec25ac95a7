"""Which model a name on the command line means: a Hugging Face folder, a hub name, a run or one of its checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import Checkpoint, find_latest, load_checkpoint
from gspo.config import Config
from gspo.config.paths import expanded
from gspo.config.schema import ModelConfig
from gspo.models import Policy, load_actor_tokenizer, load_policy
from gspo.models.hub import HubError
from gspo.trainer.exporting import began_with, is_checkpoint, load_weights

__all__ = ["Candidate", "find_candidates"]

_KINDS = "a Hugging Face folder or hub name, a run's folder, or a checkpoint RUN/checkpoints/global_step_N"


@dataclass(frozen=True)
class Candidate:
    """A model to evaluate.

    Attributes:
        name: what the user called it.
        model: how its architecture and tokenizer are loaded.
        weights: the checkpoint whose weights replace the loaded ones; None keeps those.
        about: what was found under the name, in a few words.
    """

    name: str
    model: ModelConfig
    weights: Checkpoint | None
    about: str

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer.

        Raises:
            ValueError: there is none; names the model.
        """
        try:
            return load_actor_tokenizer(self.model)
        except ValueError as error:
            raise ValueError(self._explained(error)) from error

    def policy(self, tokenizer: PreTrainedTokenizerBase, device: str, longest: int) -> Policy:
        """The model with its weights, without gradients.

        Args:
            tokenizer: its tokenizer.
            device: where it goes.
            longest: tokens of the longest prompt and response together.

        Raises:
            ValueError: it cannot be loaded, or not for this length; names the model.
        """
        try:
            policy = load_policy(self.model, tokenizer, device, longest, train=False)
        except ValueError as error:
            raise ValueError(self._explained(error)) from error
        if self.weights is not None:
            try:
                load_weights(policy, self.weights, self.model)
            except ValueError as error:
                raise ValueError(f"{self.name}: {error}") from error
        return policy

    def _explained(self, error: ValueError) -> str:
        if self.weights is not None and not Path(self.model.path or "").exists():
            return (
                f"{self.name}: {error}. The run began with the model {self.model.path}: call gspo in the folder where "
                "the run was started, or name the model by --set actor_rollout_ref.model.path=FOLDER"
            )
        if isinstance(error, HubError):
            return f"{self.name}: {error}"
        if self.weights is None and not expanded(self.name, "MODEL").exists():
            return f"{self.name}: {error}. There is no folder {self.name} here, so it was taken for a hub name"
        return f"{self.name}: {error}"


def find_candidates(names: Sequence[str], config: Config) -> list[Candidate]:
    """What each name means; nothing is loaded yet.

    Args:
        names: as on the command line.
        config: whose `actor_rollout_ref.model` says how models are loaded. Of a checkpoint's own model, only what the
            user has set is replaced.

    Raises:
        ValueError: a name is given twice or means nothing; says what it could mean.
    """
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"MODEL {name} is named more than once: name each model once")
    candidates = [_find(name, config) for name in names]
    if "actor_rollout_ref.model.path" in config.user_set and not any(found.weights for found in candidates):
        raise ValueError(
            "--set actor_rollout_ref.model.path names the model that a checkpoint's run began with, and no checkpoint "
            "is evaluated: take it out; the models to evaluate are the MODEL arguments"
        )
    return candidates


def _find(name: str, config: Config) -> Candidate:
    path = expanded(name, "MODEL")
    model = config.policy_model
    if not path.exists():
        if name.startswith((".", "/", "~")) or name.count("/") > 1:
            raise ValueError(f"MODEL {name}: there is no such folder: give {_KINDS}")
        return Candidate(name, replace(model, path=name), None, "hub name")
    if not path.is_dir():
        raise ValueError(f"MODEL {name} is a file: give {_KINDS}")
    if is_checkpoint(path):
        return _of_checkpoint(name, load_checkpoint(path), config)
    if (path / "config.json").is_file():
        return Candidate(name, replace(model, path=str(path)), None, "Hugging Face folder")
    if (path / "config.yaml").is_file():
        return _of_run(name, path, config)
    raise ValueError(f"MODEL {name} is a folder without config.json, config.yaml or state.json: give {_KINDS}")


def _of_run(name: str, run: Path, config: Config) -> Candidate:
    """The exported model of a finished run; the newest checkpoint of one that has gone on since or never finished."""
    exported = run / "huggingface"
    latest = find_latest(run)
    finished = (exported / "config.json").is_file()
    found = latest.checkpoint
    if found is not None and not (finished and _written(exported / "config.json") >= _written(found.path)):
        return _of_checkpoint(name, found, config)
    if finished:
        model = replace(config.policy_model, path=str(exported))
        return Candidate(name, model, None, f"run, its {exported.name}/")
    detail = f" ({'; '.join(latest.warnings)})" if latest.warnings else ""
    raise ValueError(
        f"MODEL {name} is a run that has neither a huggingface/ folder nor a complete checkpoint yet{detail}: set "
        "trainer.save_freq to save while it trains, or let it finish"
    )


def _of_checkpoint(name: str, checkpoint: Checkpoint, config: Config) -> Candidate:
    about = f"checkpoint after step {checkpoint.step}"
    exported = checkpoint.path / "huggingface"
    if (exported / "config.json").is_file():
        return Candidate(name, replace(config.policy_model, path=str(exported)), None, about)
    try:
        return Candidate(name, began_with(checkpoint, config), checkpoint, about)
    except ValueError as error:
        raise ValueError(f"MODEL {name}: {error}") from error


def _written(path: Path) -> int:
    return (path / "state.json" if path.is_dir() else path).stat().st_mtime_ns
