"""`critic`: PPO's value critic, or GAD's discriminator."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gspo.config.fields import ConfigError, Needs, Section, option, section
from gspo.config.needs import CRITIC, DISCRIMINATOR, OWN_CRITIC_MODEL, SHARED_BACKBONE, VALUES
from gspo.config.schema_policy import OptimConfig
from gspo.methods import AGGREGATIONS

__all__ = ["CriticConfig", "CriticModelConfig", "CriticOptimConfig", "DiscriminatorConfig"]


@dataclass(frozen=True, kw_only=True)
class CriticModelConfig(Section):
    """The critic's model."""

    KEY: ClassVar[str] = "critic.model"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)
    ONLY_WITH: ClassVar[tuple[Needs, ...]] = (CRITIC,)

    path: str | None = option(
        None,
        "Folder or hub name of the critic's or discriminator's model; null: the actor's.",
        turns_on=DISCRIMINATOR,
        example="Qwen/Qwen3-0.6B",
        path=True,
    )


@dataclass(frozen=True, kw_only=True)
class CriticOptimConfig(OptimConfig):
    """AdamW and the schedule of the critic."""

    KEY: ClassVar[str] = "critic.optim"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)
    ONLY_WITH: ClassVar[tuple[Needs, ...]] = (CRITIC, OWN_CRITIC_MODEL)

    lr: float = option(1e-5, "Peak learning rate.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class DiscriminatorConfig(Section):
    """GAD's Bradley-Terry loss: -log sigmoid((teacher's score - student's score - margin) / temperature)."""

    KEY: ClassVar[str] = "critic.discriminator"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)
    ONLY_WITH: ClassVar[tuple[Needs, ...]] = (DISCRIMINATOR,)

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
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)
    ONLY_WITH: ClassVar[tuple[Needs, ...]] = (CRITIC, OWN_CRITIC_MODEL)

    enable: bool | None = option(
        None,
        "Train a critic; null: where adv_estimator is gae, or GAD is asked for.",
        only_with=(),
        turns_on=DISCRIMINATOR,
    )
    shared_backbone: bool = option(
        False,
        "Put PPO's value head on the actor's own model: one pass, one update, no second model. Not in verl.",
        only_with=CRITIC,
    )
    value_loss_coef: float = option(
        0.5,
        "With shared_backbone: weight of the value loss next to the policy's (arXiv 1707.06347, eq. 9).",
        above=0,
        only_with=(CRITIC, VALUES, SHARED_BACKBONE),
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
    cliprange_value: float = option(
        0.5, "How far an update may gain by moving a value from its old one.", above=0, only_with=(CRITIC, VALUES)
    )
    loss_agg_mode: str = option(
        "token-mean",
        "From the critic's token losses to one number.",
        choices=AGGREGATIONS,
        only_with=(CRITIC, VALUES),
    )
    loss_scale_factor: float | None = option(
        None,
        "Divisor of its seq-mean-token-sum-norm, in tokens; null: data.max_response_length.",
        above=0,
        only_with=(CRITIC, VALUES),
    )
