"""`algorithm`, `critic`, `trainer`: what is optimised and how a run goes."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gspo.config.fields import ConfigError, Section, option, section
from gspo.config.method_lines import ADVANTAGE_LINE
from gspo.config.schema_policy import KL_ESTIMATORS, OptimConfig
from gspo.methods import AGGREGATIONS, DEFAULT_ADVANTAGE

__all__ = [
    "AlgorithmConfig",
    "CriticConfig",
    "CriticModelConfig",
    "CriticOptimConfig",
    "DiscriminatorConfig",
    "FilterGroupsConfig",
    "KlCtrlConfig",
    "RolloutCorrectionConfig",
    "TrainerConfig",
]


@dataclass(frozen=True, kw_only=True)
class KlCtrlConfig(Section):
    """The weight of the divergence in the reward."""

    KEY: ClassVar[str] = "algorithm.kl_ctrl"

    type: str = option("fixed", "How the weight of the divergence in the reward moves.", choices=("fixed", "adaptive"))
    kl_coef: float = option(0.001, "That weight, at the start.", at_least=0)
    horizon: int = option(10000, "Responses over which the adaptive weight moves.", at_least=1)
    target_kl: float = option(0.1, "Divergence, in nats a token, that the adaptive weight aims at.", above=0)


@dataclass(frozen=True, kw_only=True)
class RolloutCorrectionConfig(Section):
    """Truncated or masked importance weights between trainer and rollout engine."""

    KEY: ClassVar[str] = "algorithm.rollout_correction"

    rollout_is: str | None = option(
        None,
        "Weigh by pi_train / pi_rollout, per token or per sequence; null: no weights.",
        choices=("token", "sequence"),
    )
    rollout_is_threshold: str = option("2.0", "Upper clamp of these weights, or a range in quotes: '\"0.5_2\"'.")
    rollout_rs: str | None = option(
        None, "Leave out what differs too much: level and statistic, as token_k1 or seq_mean_k3; null: nothing."
    )
    rollout_rs_threshold: str | None = option(
        None, "Largest ratio (k1) or estimate (k2, k3) to keep, or a range in quotes: '\"0.5_2\"'."
    )

    bypass_mode: bool | None = option(
        None,
        "Samples' log-probabilities serve as old ones; null: in float32, where a first batch shows them right.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.active and self.bypass_mode:
            raise ConfigError(
                f"{self.key('bypass_mode')}=true takes the rollout's policy for the old one, which leaves nothing to "
                "correct: set it to null, or take rollout_is and rollout_rs out",
                self.key("bypass_mode"),
            )
        if self.rollout_rs is not None and self.rollout_rs_threshold is None:
            raise ConfigError(
                f"{self.key('rollout_rs')}={self.rollout_rs} needs {self.key('rollout_rs_threshold')}: set "
                "it, say to 2.0",
                self.key("rollout_rs"),
            )

    @property
    def active(self) -> bool:
        """Whether anything is weighted or left out."""
        return self.rollout_is is not None or self.rollout_rs is not None


@dataclass(frozen=True, kw_only=True)
class FilterGroupsConfig(Section):
    """DAPO's dynamic sampling (arXiv 2503.14476)."""

    KEY: ClassVar[str] = "algorithm.filter_groups"

    enable: bool = option(False, "Replace groups whose responses all score the same (DAPO, arXiv 2503.14476).")
    metric: str = option(
        "score",
        "What must differ within a group; score and verl's seq_reward and seq_final_reward are one: the reward.",
        choices=("score", "acc", "seq_reward", "seq_final_reward"),
    )
    max_num_gen_batches: int = option(10, "Batches to sample at most per step; 0: one pass over the data.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig(Section):
    """Advantages and the divergence in the reward."""

    KEY: ClassVar[str] = "algorithm"

    adv_estimator: str = option(DEFAULT_ADVANTAGE, ADVANTAGE_LINE)
    gamma: float = option(1.0, "Discount of gae and reinforce_plus_plus.", at_least=0, at_most=1)
    lam: float = option(1.0, "Lambda of gae.", at_least=0, at_most=1)
    norm_adv_by_std_in_grpo: bool = option(
        True, "Divide by the group's standard deviation; false: Dr.GRPO (arXiv 2503.20783)."
    )
    use_kl_in_reward: bool = option(False, "Take the divergence from the reference model off the reward.")
    kl_penalty: str = option(
        "kl", "Its estimator.", choices=KL_ESTIMATORS + tuple(f"{name}+" for name in KL_ESTIMATORS)
    )
    kl_ctrl: KlCtrlConfig = section(KlCtrlConfig, "The weight of that divergence.")
    rollout_correction: RolloutCorrectionConfig = section(
        RolloutCorrectionConfig, "Corrects for an engine whose probabilities differ from the trainer's."
    )
    filter_groups: FilterGroupsConfig = section(FilterGroupsConfig, "Dynamic sampling.")
    external_modules: list[str] = option([], "Python files that register further losses and advantages; they are run.")


@dataclass(frozen=True, kw_only=True)
class CriticModelConfig(Section):
    """The critic's model."""

    KEY: ClassVar[str] = "critic.model"

    path: str | None = option(None, "Folder or hub name of the critic's or discriminator's model; null: the actor's.")


@dataclass(frozen=True, kw_only=True)
class CriticOptimConfig(OptimConfig):
    """AdamW and the schedule of the critic."""

    KEY: ClassVar[str] = "critic.optim"

    lr: float = option(1e-5, "Peak learning rate.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Section):
    """GAD's Bradley-Terry loss: -log sigmoid((teacher's score - student's score - margin) / temperature)."""

    KEY: ClassVar[str] = "critic.discriminator"

    temperature: float = option(1.0, "Above 1 it slows a discriminator that saturates.", above=0)
    margin: float = option(0.0, "How far apart the two scores are asked to be.", at_least=0)
    score_l2: float = option(0.0, "Weight of (teacher^2 + student^2) / 2, which holds scores near 0.", at_least=0)
    label_smoothing: float = option(0.0, "Chance that a pair is taken the other way round; below 0.5.", at_least=0)
    freeze_after_warmup: bool = option(
        False, "Never update it again once the adversarial stage begins: a fixed reward, which the student exploits."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_smoothing >= 0.5:
            raise ConfigError(
                f"{self.key('label_smoothing')}={self.label_smoothing:g} would teach the opposite: set it below 0.5",
                self.key("label_smoothing"),
            )


@dataclass(frozen=True, kw_only=True)
class CriticConfig(Section):
    """The value critic (PPO) or the discriminator (GAD)."""

    KEY: ClassVar[str] = "critic"

    enable: bool | None = option(None, "Train a critic; null: where adv_estimator is gae, or GAD is asked for.")
    shared_backbone: bool = option(
        False, "Put PPO's value head on the actor's own model: one pass, one update, no second model. Not in verl."
    )
    value_loss_coef: float = option(
        0.5, "With shared_backbone: weight of the value loss beside the policy's (arXiv 1707.06347, eq. 9).", above=0
    )
    model: CriticModelConfig = section(CriticModelConfig, "The critic's model.")
    optim: CriticOptimConfig = section(CriticOptimConfig, "Optimizer and schedule of the critic.")
    discriminator: DiscriminatorConfig = section(DiscriminatorConfig, "The loss of GAD's discriminator.")
    ppo_mini_batch_size: int | None = option(
        None, "PROMPTS per optimizer step of the critic; null: the actor's.", at_least=1
    )
    ppo_micro_batch_size_per_gpu: int | None = option(None, "RESPONSES per forward pass; null: by tokens.", at_least=1)
    ppo_max_token_len_per_gpu: int = option(
        32768, "Unique tokens per pass, with and without a backward pass.", at_least=1
    )
    ppo_epochs: int = option(1, "Passes of the critic over each batch of rollouts.", at_least=1)
    shuffle: bool = option(False, "Shuffle the groups of a batch before they are cut into mini-batches.")
    cliprange_value: float = option(0.5, "How far an update may gain by moving a value from its old one.", above=0)
    loss_agg_mode: str = option("token-mean", "From the critic's token losses to one number.", choices=AGGREGATIONS)


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(Section):
    """How long a run is, where it goes and on what it computes."""

    KEY: ClassVar[str] = "trainer"

    total_epochs: int = option(1, "Passes over the training data; GAD's first stage comes before them.", at_least=1)
    total_training_steps: int | None = option(
        None, "Steps to train, in place of total_epochs; GAD's first stage comes before them.", at_least=1
    )
    critic_warmup: int = option(
        0, "First steps, N of them (GAD: after its first stage), that train the critic only.", at_least=0
    )
    gad_warmup_epochs: int = option(
        0, "Epochs of GAD's first stage: student on teacher text, discriminator beside it.", at_least=0
    )
    gad_warmup_steps: int | None = option(None, "Steps of that stage, in place of gad_warmup_epochs.", at_least=0)
    gad_warmup_lr: float | None = option(
        None, "Constant learning rate of the student in that stage; null: actor_rollout_ref.actor.optim.lr.", at_least=0
    )
    save_freq: int = option(-1, "Steps between checkpoints; -1: at the end only.", at_least=-1)
    test_freq: int = option(-1, "Steps between validations; -1: at the end only.", at_least=-1)
    val_before_train: bool = option(True, "Validate before the first step.")
    val_only: bool = option(False, "Validate and stop.")
    resume_mode: str = option(
        "auto",
        "auto: from the newest checkpoint of default_local_dir, if any.",
        choices=("auto", "disable", "resume_path"),
    )
    resume_from_path: str | None = option(None, "Checkpoint folder for resume_mode=resume_path.")
    default_local_dir: str | None = option(None, "Folder of the run; null: runs/PROJECT_NAME/EXPERIMENT_NAME.")
    max_actor_ckpt_to_keep: int | None = option(None, "Newest checkpoints to keep; null: all.", at_least=1)
    save_hf: bool = option(True, "Write the final model as a Hugging Face folder.")
    logger: list[str] = option(
        ["console", "jsonl", "tensorboard"], "Where metrics go: console, jsonl (always on), tensorboard, wandb."
    )
    log_val_generations: int = option(8, "Validation responses to keep in samples.jsonl each time.", at_least=0)
    project_name: str = option("gspo", "Name of the project, for the run's folder and the loggers.")
    experiment_name: str | None = option(
        None, "Name of the run; null: the policy loss and the model, as in gspo-Qwen3-0.6B."
    )
    nnodes: int = option(1, "Machines.", at_least=1)
    n_gpus_per_node: int = option(1, "Processes per machine.", at_least=1)
    seed: int = option(1, "Seed of the weights that start at random, of sampling and of shuffling.", at_least=0)
    device: str = option("auto", "Where to compute; auto: cuda where there is one.", choices=("auto", "cpu", "cuda"))
    num_threads: int | None = option(None, "Threads of the CPU's operations; null: torch's choice.", at_least=1)

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
                raise ConfigError(f"{self.key(name)}=0 is no number of steps: set -1 for the end only", self.key(name))
        if self.resume_mode == "resume_path" and not self.resume_from_path:
            raise ConfigError(
                f"{self.key('resume_mode')}=resume_path needs {self.key('resume_from_path')}: set it to a folder of a "
                "checkpoint",
                self.key("resume_from_path"),
            )
        if self.resume_from_path and self.resume_mode != "resume_path":
            raise ConfigError(
                f"{self.key('resume_from_path')} is read with {self.key('resume_mode')}=resume_path only: set both",
                self.key("resume_from_path"),
            )

    @property
    def gad_warmup(self) -> bool:
        """Whether GAD's first stage is asked for."""
        return self.gad_warmup_epochs > 0 or bool(self.gad_warmup_steps)
