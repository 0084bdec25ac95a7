"""`trainer`: how a run goes."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gspo.config.fields import COMMANDS, ConfigError, Section, option
from gspo.config.needs import DISCRIMINATOR

__all__ = ["TrainerConfig"]


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Section):
    """How long a run is, where it goes and on what it computes."""

    KEY: ClassVar[str] = "trainer"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "sft")

    total_epochs: int = option(1, "Passes over the training data; GAD's first stage comes before them.", at_least=1)
    total_training_steps: int | None = option(
        None, "Steps to train, in place of total_epochs; GAD's first stage comes before them.", at_least=1
    )
    critic_warmup: int = option(
        0,
        "First steps, N of them (GAD: after its first stage), that train the critic only.",
        at_least=0,
        read_by=("train",),
        turns_on=DISCRIMINATOR,
    )
    gad_warmup_epochs: int = option(
        0,
        "Epochs of GAD's first stage: student on teacher text, discriminator next to it.",
        at_least=0,
        read_by=("train",),
        only_with=DISCRIMINATOR,
        turns_on=DISCRIMINATOR,
    )
    gad_warmup_steps: int | None = option(
        None,
        "Steps of that stage, in place of gad_warmup_epochs.",
        at_least=0,
        read_by=("train",),
        only_with=DISCRIMINATOR,
        turns_on=DISCRIMINATOR,
    )
    gad_warmup_lr: float | None = option(
        None,
        "Constant learning rate of the student in that stage; null: actor_rollout_ref.actor.optim.lr.",
        at_least=0,
        read_by=("train",),
        only_with=DISCRIMINATOR,
    )
    save_freq: int = option(
        -1, "Steps between checkpoints; -1: every save_interval_minutes, and at the end.", at_least=-1
    )
    save_interval_minutes: float | None = option(
        30.0,
        "Minutes between checkpoints where save_freq is -1, of which two are kept; null: at the end only.",
        at_least=0,
    )
    test_freq: int = option(-1, "Steps between validations; -1: at the end only.", at_least=-1)
    val_before_train: bool = option(True, "Validate before the first step.")
    val_only: bool = option(False, "Validate and stop.", read_by=("train",))
    resume_mode: str = option(
        "auto",
        "auto: from the newest checkpoint of default_local_dir, if any.",
        choices=("auto", "disable", "resume_path"),
    )
    resume_from_path: str | None = option(None, "Checkpoint folder for resume_mode=resume_path.", path=True)
    default_local_dir: str | None = option(
        None, "Folder of the run; null: runs/PROJECT_NAME/EXPERIMENT_NAME, one for each configuration.", path=True
    )
    max_actor_ckpt_to_keep: int | None = option(None, "Newest checkpoints to keep; null: all.", at_least=1)
    save_hf: bool = option(True, "Write the final model as a Hugging Face folder.")
    save_hf_dtype: str | None = option(
        None, "Type of that folder's weights; null: the type of the model trained.", choices=("float32", "bfloat16")
    )
    logger: list[str] = option(
        ["console", "jsonl", "tensorboard"], "Where metrics go: console, jsonl (always on), tensorboard, wandb."
    )
    log_val_generations: int = option(
        8, "Validation responses to keep in samples.jsonl each time.", at_least=0, read_by=("train",)
    )
    project_name: str = option("gspo", "Name of the project, for the run's folder and the loggers.")
    experiment_name: str | None = option(
        None, "Name of the run; null: the policy loss and the model, as in gspo-Qwen3-0.6B."
    )
    nnodes: int = option(1, "Machines; more than one are read as one.", at_least=1, read_by=())
    n_gpus_per_node: int = option(1, "Processes per machine; more than one are read as one.", at_least=1, read_by=())
    seed: int = option(
        1, "Seed of the weights that start at random, of sampling and of shuffling.", at_least=0, read_by=COMMANDS
    )
    device: str = option(
        "auto",
        "Where to compute; auto: cuda where there is one.",
        choices=("auto", "cpu", "cuda"),
        read_by=COMMANDS,
    )
    num_threads: int | None = option(
        None, "Threads of the CPU's operations; null: torch's choice.", at_least=1, read_by=COMMANDS
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("console", "jsonl", "tensorboard", "wandb")
        for name in self.logger:
            if name not in known:
                raise ConfigError(f"{self.key('logger')}: {name} is not one of {', '.join(known)}", self.key("logger"))
        if self.gad_warmup_epochs and self.gad_warmup_steps is not None:
            raise ConfigError(
                f"{self.key('gad_warmup_epochs')} and {self.key('gad_warmup_steps')} are two lengths of one stage: set "
                "one of them",
                self.key("gad_warmup_steps"),
            )
        for name in ("save_freq", "test_freq"):
            if getattr(self, name) == 0:
                raise ConfigError(f"{self.key(name)}=0 is no number of steps: set 1 or more, or -1", self.key(name))
        if self.resume_mode == "resume_path" and not self.resume_from_path:
            raise ConfigError(
                f"{self.key('resume_mode')}=resume_path needs {self.key('resume_from_path')}: set it to a folder of a "
                "checkpoint",
                self.key("resume_from_path"),
            )

    @property
    def gad_warmup(self) -> bool:
        """Whether GAD's first stage is asked for."""
        return self.gad_warmup_epochs > 0 or bool(self.gad_warmup_steps)
