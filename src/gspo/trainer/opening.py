"""What every kind of run does to open: the device, the data and their order, the terminal and the loggers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gspo.checkpoint import load_checkpoint
from gspo.config import Config, ConfigError
from gspo.config.schema import DataConfig
from gspo.data import PromptDataset, PromptSampler, load_dataset
from gspo.observe import ConsoleLogger, Tracker
from gspo.trainer.folder import open_tracker

__all__ = ["choose_device", "longest_sequence", "read_data", "resume_step", "watched"]


def choose_device(config: Config) -> str:
    """The device that `trainer.device` names, with `trainer.num_threads` set.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if config.trainer.num_threads is not None:
        torch.set_num_threads(config.trainer.num_threads)
    if config.trainer.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.device=cuda, but torch finds no CUDA device: set trainer.device=cpu", "trainer.device"
        )
    if config.trainer.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return config.trainer.device


def read_data(
    data: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_teacher: bool = False,
    val_teacher: bool = False,
    text_key: str = "teacher_key",
) -> tuple[PromptDataset, PromptDataset | None, PromptSampler]:
    """The prompts to train on, those to validate on where there are any, and the order of the first.

    Args:
        data: the `data` section.
        tokenizer: the model's.
        train_teacher, val_teacher: every row must have a text to learn from.
        text_key: the key of the `data` section that names this text's column.

    Raises:
        ValueError: a file or row cannot be used; says which and what to do.
    """
    load = partial(load_dataset, config=data, tokenizer=tokenizer, text_key=text_key)
    train = load(data.train_files, require_teacher=train_teacher, max_samples=data.train_max_samples)
    val = None
    if data.val_files:
        val = load(data.val_files, require_teacher=val_teacher, max_samples=data.val_max_samples)
    assert data.seed is not None  # resolved
    return train, val, PromptSampler(len(train), data.train_batch_size, data.shuffle, data.seed, train.fingerprint)


def longest_sequence(config: DataConfig, *datasets: PromptDataset | None) -> int:
    """Tokens of the longest prompt that these datasets hold and the longest response after it."""
    longest = max(dataset.longest for dataset in datasets if dataset is not None)
    return min(longest, config.max_prompt_length) + config.max_response_length


def resume_step(checkpoint: Path | None) -> int | None:
    """The step after which a checkpoint was written; None for a new run."""
    return load_checkpoint(checkpoint).step if checkpoint is not None else None


@contextmanager
def watched(
    config: Config,
    folder: Path,
    checkpoint: Path | None,
    total_steps: int,
    header: Mapping[str, str],
    lines: Sequence[str],
) -> Iterator[tuple[ConsoleLogger, Tracker]]:
    """The terminal's view, with its header and what is to be said at the start, and the loggers; both are closed again.

    Args:
        config: the resolved configuration.
        folder: the run's.
        checkpoint: what the run goes on from: figures of later steps are removed.
        total_steps: the run's last step.
        header: what trains, as name and text.
        lines: notices.
    """
    console = ConsoleLogger(total_steps, header)
    with open_tracker(config, folder, resume_step(checkpoint), console) as tracker, console:
        for line in lines:
            console.notice(line)
        yield console, tracker
