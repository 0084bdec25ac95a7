"""`data`, `reward`, `custom_reward_function`: what is asked, and who judges the answers."""

# ruff: noqa: RUF009 - `option` and `section` make dataclass fields, as `dataclasses.field` does

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any, ClassVar

from gspo.config.fields import COMMANDS, ConfigError, Section, option, section
from gspo.config.needs import DISCRIMINATOR

__all__ = ["CustomRewardConfig", "DataConfig", "OverlongBufferConfig", "RewardConfig", "RewardFunctionConfig"]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """Which prompts are asked, and how they are cut and batched."""

    KEY: ClassVar[str] = "data"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "sft")

    train_files: list[str] = option(
        [], "Parquet, json or jsonl file or files to train on.", example="train.parquet", path=True
    )
    val_files: list[str] = option(
        [], "File or files to validate on; none: no validation.", example="test.parquet", path=True
    )
    prompt_key: str = option("prompt", "Column of the prompt: a list of {role, content}, or a text.", read_by=COMMANDS)
    answer_key: str = option(
        "answer", "Column of the answer that supervised training (gspo sft) learns.", read_by=("sft",)
    )
    tools_key: str | None = option(
        "tools",
        "Column of tools for the chat template, where there is one; null: none.",
        read_by=COMMANDS,
    )
    teacher_key: str = option("teacher_response", "Column of the teacher's text, for GAD.", read_by=("train",))
    system_prompt: str | None = option(None, "System message put before prompts that have none.", read_by=COMMANDS)
    apply_chat_template_kwargs: dict[str, Any] = option({}, "Further arguments of the chat template.", read_by=COMMANDS)
    template_date: str | None = option(
        None,
        "Day (YYYY-MM-DD) that a chat template which writes the date takes for today; null: the day of the start, "
        "which a run keeps.",
        example="2026-01-31",
        read_by=COMMANDS,
    )
    max_prompt_length: int = option(512, "Longest prompt, in tokens.", at_least=1, read_by=COMMANDS)
    max_response_length: int = option(512, "Longest response, in tokens.", at_least=1, read_by=COMMANDS)
    filter_overlong_prompts: bool = option(
        False, "Leave out prompts beyond max_prompt_length; they are counted.", read_by=COMMANDS
    )
    truncation: str = option(
        "error",
        "What happens to a longer prompt otherwise; left: its start is cut.",
        choices=("error", "left", "right"),
        read_by=COMMANDS,
    )
    train_batch_size: int = option(1024, "PROMPTS per training step (times rollout.n responses).", at_least=1)
    val_batch_size: int | None = option(
        None, "Prompts per validation batch; null: all at once.", at_least=1, read_by=("train", "eval")
    )
    shuffle: bool = option(True, "Shuffle the training prompts again in each epoch.")
    seed: int | None = option(None, "Seed of that order; null: trainer.seed.")
    train_max_samples: int = option(-1, "Use the first rows only; -1: all.", at_least=-1)
    val_max_samples: int = option(-1, "Validate on the first rows only; -1: all.", at_least=-1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.template_date is not None:
            try:
                date.fromisoformat(self.template_date)
            except ValueError:
                key = self.key("template_date")
                raise ConfigError(f"{key}={self.template_date} is no day: write one as 2026-01-31", key) from None
        for name in ("train_max_samples", "val_max_samples"):
            if getattr(self, name) == 0:
                raise ConfigError(f"{self.key(name)}=0 leaves no rows: set -1 for all, or 1 or more", self.key(name))


@dataclass(frozen=True, kw_only=True)
class RewardFunctionConfig(Section):
    """One term of a weighted sum of rewards."""

    KEY: ClassVar[str] = "reward.functions[]"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "eval")

    name: str = option("", "Name of a built-in reward function, or `custom` for custom_reward_function.")
    weight: float = option(1.0, "Weight of this term in the sum.")
    kwargs: dict[str, Any] = option({}, "Further arguments of the function.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.name:
            raise ConfigError(
                "reward.functions: an entry needs a name, as in {name: gsm8k, weight: 1.0}", "reward.functions"
            )


@dataclass(frozen=True, kw_only=True)
class OverlongBufferConfig(Section):
    """DAPO's soft penalty for length (arXiv 2503.14476, eq. 13)."""

    KEY: ClassVar[str] = "reward.overlong_buffer"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "eval")

    enable: bool = option(
        False, "Take points off responses that come close to the length limit (DAPO, arXiv 2503.14476)."
    )
    len: int = option(
        0, "Tokens before max_response_length over which the penalty grows from 0 to its full size.", at_least=0
    )
    penalty_factor: float = option(1.0, "The full penalty.", at_least=0)


@dataclass(frozen=True, kw_only=True)
class RewardConfig(Section):
    """How responses are scored."""

    KEY: ClassVar[str] = "reward"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "eval")

    functions: list[RewardFunctionConfig] = option(
        [], "Rewards to add up, each {name, weight, kwargs}; none: chosen by each row's data_source."
    )
    discriminator_weight: float = option(
        1.0,
        "GAD: weight of the discriminator's score in the sum.",
        at_least=0,
        read_by=("train",),
        only_with=DISCRIMINATOR,
    )
    num_workers: int = option(
        2,
        "Processes that score at the same time; where calls of custom_reward_function wait rather than compute, "
        "up to 64 of them run.",
        at_least=1,
    )
    timeout: float = option(10.0, "Seconds that one response may take to score, from the start of the call.", above=0)
    max_memory_gb: float = option(
        4.0, "GiB that a process that scores may take; a call that needs more is an error of its response.", above=0
    )
    on_error: str = option(
        "exclude",
        "A scorer that fails; exclude: the response is counted and left out of the update; raise: the run stops.",
        choices=("exclude", "raise"),
    )
    keep_special_tokens: list[str] = option(
        [],
        "Special tokens that stay in the text that rewards see; the others are left out of it.",
        example='["<think>","</think>"]',
    )
    overlong_buffer: OverlongBufferConfig = section(OverlongBufferConfig, "DAPO's soft penalty for length.")


@dataclass(frozen=True, kw_only=True)
class CustomRewardConfig(Section):
    """A reward function of the user's, under verl's keys."""

    KEY: ClassVar[str] = "custom_reward_function"
    READ_BY: ClassVar[tuple[str, ...]] = ("train", "eval")

    path: str | None = option(None, "Python file of your own reward function; null: none.", path=True)
    name: str = option("compute_score", "Its name: name(data_source, solution_str, ground_truth, extra_info).")
    reward_kwargs: dict[str, Any] = option({}, "Further keyword arguments for it.")
    inline: bool = option(
        False,
        "Call it in the trainer's process, for a function that needs its GPU or its objects; nothing can stop a call "
        "that hangs there.",
    )
