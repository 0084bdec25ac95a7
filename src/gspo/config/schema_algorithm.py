"""`algorithm`: advantages, the divergence in the reward, and which samples are trained on."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gspo.config.fields import ConfigError, Section, option, section
from gspo.config.method_lines import ADVANTAGE_LINE
from gspo.config.schema_policy import KL_ESTIMATORS
from gspo.methods import DEFAULT_ADVANTAGE

__all__ = ["AlgorithmConfig", "FilterGroupsConfig", "KlCtrlConfig", "RolloutCorrectionConfig"]


@dataclass(frozen=True, kw_only=True)
class KlCtrlConfig(Section):
    """The weight of the divergence in the reward."""

    KEY: ClassVar[str] = "algorithm.kl_ctrl"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    type: str = option("fixed", "How the weight of the divergence in the reward moves.", choices=("fixed", "adaptive"))
    kl_coef: float = option(0.001, "That weight, at the start.", at_least=0)
    horizon: int = option(10000, "Responses over which the adaptive weight moves.", at_least=1)
    target_kl: float = option(0.1, "Divergence, in nats a token, that the adaptive weight aims at.", above=0)


@dataclass(frozen=True, kw_only=True)
class RolloutCorrectionConfig(Section):
    """Truncated or masked importance weights between trainer and rollout engine."""

    KEY: ClassVar[str] = "algorithm.rollout_correction"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

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
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

    enable: bool = option(False, "Replace groups whose responses all score the same (DAPO, arXiv 2503.14476).")
    metric: str = option(
        "score",
        "What must differ within a group; all but acc, its other names in verl, are the reward.",
        choices=("score", "acc", "reward", "seq_reward", "seq_final_reward"),
    )
    max_num_gen_batches: int = option(10, "Batches to sample at most per step; 0: one pass over the data.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class AlgorithmConfig(Section):
    """Advantages and the divergence in the reward."""

    KEY: ClassVar[str] = "algorithm"
    READ_BY: ClassVar[tuple[str, ...]] = ("train",)

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
    external_modules: list[str] = option(
        [],
        "Python files that register further losses, advantages, engines and rewards; they are run.",
        read_by=("train", "sft", "eval"),
        path=True,
    )
