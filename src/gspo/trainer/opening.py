"""What every kind of run opens: the device, the data and their order, the folder, the terminal and the loggers."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gspo.checkpoint import Checkpoint, export_hf
from gspo.config import Config, ConfigError
from gspo.config.requirements import require_one_process
from gspo.config.schema import DataConfig, TrainerConfig
from gspo.data import PromptDataset, PromptSampler, load_dataset
from gspo.models import processor_files
from gspo.observe import ConsoleLogger, Heartbeat, PhaseClock, SampleWriter, Tracker
from gspo.rewards import RewardManager
from gspo.rollout import RolloutEngine
from gspo.trainer.folder import check_figures, clear_unfinished, folder_of, hold, open_tracker, run_folder
from gspo.trainer.origin import Day, Origin, as_named_before
from gspo.trainer.run import Callback
from gspo.world import Alone, World, is_main

__all__ = [
    "Frame",
    "Given",
    "Ground",
    "choose_device",
    "framed",
    "keep_models",
    "longest_sequence",
    "read_ground",
    "setting_up",
    "steps_line",
]

# Training responses kept in samples.jsonl for each step.
_TRAIN_SAMPLES = 4
_SHOWN_TEXT = 40  # characters


@dataclass(frozen=True)
class Given:
    """What a caller hands over as objects, in place of what the configuration names.

    Attributes:
        model: the causal language model to train.
        tokenizer: its tokenizer.
        critic_model: the critic's or discriminator's model.
        train_data, val_data: rows: files, a list of dicts, a data set or a table.
        rewards: functions that score responses.
        reward_manager: scores responses in place of everything that the configuration says of rewards.
        engine: samples the responses.
        callbacks: called after each step.
        world: the ranks that train together.

    Raises:
        ConfigError: there is a model without a tokenizer.
    """

    model: PreTrainedModel | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    critic_model: PreTrainedModel | None = None
    train_data: Any = None
    val_data: Any = None
    rewards: Any = None
    reward_manager: RewardManager | None = None
    engine: RolloutEngine | None = None
    callbacks: Sequence[Callback] = ()
    world: World = field(default_factory=Alone)

    def __post_init__(self) -> None:
        if self.model is not None and self.tokenizer is None:
            raise ConfigError("model is an object, and there is no tokenizer: give tokenizer=, its tokenizer")

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of the configuration in whose place objects are given."""
        objects = {
            "actor_rollout_ref.model.path": self.model,
            "actor_rollout_ref.model.tokenizer_path": self.tokenizer,
            "critic.model.path": self.critic_model,
            "data.train_files": self.train_data,
        }
        return tuple(key for key, value in objects.items() if value is not None)


@dataclass(frozen=True)
class Ground:
    """What the models of a run are loaded for.

    Attributes:
        device: where they compute.
        tokenizer: whose tokens they read.
        train_data: the prompts to train on.
        val_data: the held-out prompts, where there are any.
        sampler: the order of the first.
        longest: tokens of the longest prompt and response together.
        origin: the day and the data of the run, for its checkpoints.
        text_column: the column of the texts that the run learns from, where it learns from texts.
    """

    device: str
    tokenizer: PreTrainedTokenizerBase
    train_data: PromptDataset
    val_data: PromptDataset | None
    sampler: PromptSampler
    longest: int
    origin: Origin
    text_column: str = ""

    @property
    def notices(self) -> list[str]:
        """What the held-out prompts have to say, where the run's header says it of the others; and of equal texts."""
        num_spelled = self.val_data.num_spelled if self.val_data is not None else 0
        said = f"validation: {num_spelled} prompts are JSON text, read as the messages that it spells"
        return [*([said] if num_spelled else []), *self._about_equal_texts()]

    def _about_equal_texts(self) -> Iterator[str]:
        texts = {prompt.teacher_response for prompt in self.train_data.prompts}
        if self.text_column and len(self.train_data) > 1 and len(texts) == 1:
            shown = str(texts.pop())
            short = shown if len(shown) <= _SHOWN_TEXT else f"{shown[:_SHOWN_TEXT]}..."
            yield (
                f"all {len(self.train_data)} rows of data.train_files have the same text in {self.text_column} "
                f"({short!r}): there is nothing to learn but that text. Look whether the column was filled as it was "
                "meant to be, or name another one"
            )


def choose_device(trainer: TrainerConfig) -> str:
    """The device that `trainer.device` names, with `trainer.num_threads` set.

    Raises:
        ConfigError: CUDA is asked for and there is none.
    """
    if trainer.num_threads is not None:
        torch.set_num_threads(trainer.num_threads)
    if trainer.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "trainer.device=cuda, but torch finds no CUDA device: set trainer.device=cpu", "trainer.device"
        )
    if trainer.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return trainer.device


def read_ground(
    config: Config,
    given: Given,
    tokenizer: PreTrainedTokenizerBase,
    found: Checkpoint | None,
    *,
    train_teacher: bool = False,
    val_teacher: bool = False,
    text_key: str = "teacher_key",
) -> Ground:
    """The device, the prompts to train on, those to validate on where there are any, and the order of the first.

    Args:
        config: the resolved configuration.
        given: rows that replace `data.train_files` and `data.val_files`.
        tokenizer: the model's.
        found: the checkpoint that the run goes on from.
        train_teacher, val_teacher: every row must have a text to learn from.
        text_key: the key of the `data` section that names this text's column.

    Raises:
        ValueError: a file or row cannot be used; says which and what to do.
    """
    data = config.data
    day = Day.of(tokenizer, found, data.template_date)
    if isinstance(given.world, Alone):
        require_one_process()
    device = choose_device(config.trainer)

    def load(files: Sequence[str], rows: Any, label: str, require_teacher: bool, max_samples: int) -> PromptDataset:
        return load_dataset(
            files if rows is None else rows,
            data,
            tokenizer,
            require_teacher=require_teacher,
            text_key=text_key,
            max_samples=max_samples,
            label="rows" if rows is None else label,
            now=day.moment,
        )

    train = load(data.train_files, given.train_data, "train_data", train_teacher, data.train_max_samples)
    train = as_named_before(train, "train", found)
    val = None
    if data.val_files or given.val_data is not None:
        val = load(data.val_files, given.val_data, "val_data", val_teacher, data.val_max_samples)
        val = as_named_before(val, "val", found)
    assert data.seed is not None  # resolved
    sampler = PromptSampler(len(train), data.train_batch_size, data.shuffle, data.seed, train.fingerprint)
    origin = Origin(day, train, val, device, found)
    column = str(getattr(data, text_key)) if train_teacher else ""
    return Ground(device, tokenizer, train, val, sampler, longest_sequence(data, train, val), origin, column)


@contextmanager
def setting_up(world: World) -> Iterator[Heartbeat]:
    """Says now and then what a run is doing before its own view is there: reading the data, loading the model."""
    if not is_main(world):
        yield Heartbeat(lambda _: None)
        return
    with Heartbeat(lambda line: print(line, flush=True)) as heart:
        yield heart


def steps_line(total_steps: int, sampler: PromptSampler) -> str:
    """How long a run is, for its header."""
    epoch = sampler.batches_per_epoch
    passes = f", {total_steps / epoch:.3g} epochs" if total_steps != epoch else ""
    return f"{total_steps}{passes} (an epoch has {epoch})"


def longest_sequence(config: DataConfig, *datasets: PromptDataset | None) -> int:
    """Tokens of the longest prompt that these datasets hold, as far as it is kept, and the longest response with it."""
    longest = max(dataset.longest for dataset in datasets if dataset is not None)
    return min(longest, config.max_prompt_length) + config.max_response_length


def keep_models(config: Config, given: Given, found: Checkpoint | None, say: Callable[[str], None]) -> Config:
    """The configuration with paths in place of models and a tokenizer that are objects.

    An object has no path: it is written to the run's folder before it is trained, once, so that the run can be resumed
    and `gspo eval` can read its checkpoints.

    Args:
        config: the resolved configuration.
        given: the objects.
        found: the checkpoint that the run goes on from.
        say: called with where an earlier run is moved to.
    """
    if given.model is None and given.tokenizer is None and given.critic_model is None:
        return config
    folder = run_folder(config.trainer, found, say) if is_main(given.world) else folder_of(config.trainer)
    actor_model, critic_model = config.policy_model, config.critic.model
    objects: dict[str, Any] = {
        "initial_model": given.model,
        "initial_tokenizer": given.tokenizer if given.model is None else None,
        "initial_critic": given.critic_model,
    }
    for name, value in objects.items():
        path = folder / name
        if value is None:
            continue
        if is_main(given.world) and (found is None or not path.exists()):
            _write(value, given.tokenizer, path)
        if name == "initial_model":
            actor_model = replace(actor_model, path=str(path), tokenizer_path=None)
        elif name == "initial_tokenizer":
            actor_model = replace(actor_model, tokenizer_path=str(path))
        else:
            critic_model = replace(critic_model, path=str(path))
    given.world.any(False)  # the other ranks wait for the files
    policy = replace(config.actor_rollout_ref, model=actor_model)
    return replace(config, actor_rollout_ref=policy, critic=replace(config.critic, model=critic_model))


def _write(value: Any, tokenizer: PreTrainedTokenizerBase | None, path: Path) -> None:
    """Writes a model with its tokenizer, or a tokenizer, whole or not at all."""
    draft = path.with_name(f"{path.name}.tmp")
    for old in (draft, path):
        if old.exists():
            shutil.rmtree(old)
    if value is tokenizer or tokenizer is None:
        value.save_pretrained(draft)
    else:
        export_hf(value, tokenizer, draft, files=processor_files(value))
    draft.rename(path)


@dataclass(frozen=True)
class Frame:
    """Where a run takes place and how it is watched.

    Attributes:
        folder: the run's.
        found: the checkpoint to go on from.
        console, tracker, samples: what is shown, logged and kept.
        say_once: prints a notice (text, subject), the first time that it is about this subject.
        clock: of the phases of a step.
    """

    folder: Path
    found: Checkpoint | None
    console: ConsoleLogger
    tracker: Tracker
    samples: SampleWriter
    clock: PhaseClock
    say_once: Callable[[str, str], None]


@contextmanager
def framed(
    config: Config,
    found: Checkpoint | None,
    world: World,
    device: str,
    total_steps: int,
    header: Mapping[str, str],
    notices: Sequence[str],
    *,
    num_samples: int = 0,
    only_validates: bool = False,
) -> Iterator[Frame]:
    """The run's folder, held, the terminal's view with its header and notices, and the loggers; all closed at the end.

    Only the main rank prints and writes.

    Args:
        config: the resolved configuration.
        found: the checkpoint that the run goes on from.
        world: the ranks.
        device: where the models compute.
        total_steps: the run's last step.
        header: what trains, as name and text; the folder is added.
        notices: what is to be said at the start.
        num_samples: groups of a validation whose responses are kept.
        only_validates: whether nothing of the folder is to be replaced.

    Raises:
        ValueError: the folder or a logger cannot be used; says which and what to do.
    """
    step = found.step if found is not None else None
    if not is_main(world):
        silent = ConsoleLogger(total_steps, {}, Console(quiet=True))
        folder = folder_of(config.trainer)
        yield _frame(folder, found, silent, Tracker([]), SampleWriter(folder, 0, silent=True), device)
        return
    lines: list[str] = []
    folder = run_folder(config.trainer, found, lines.append)
    with hold(folder):
        clear_unfinished(folder)
        if found is not None:
            check_figures(folder)
        lines_above = {**header, "run folder": str(folder)}
        console = ConsoleLogger(total_steps, lines_above, test_freq=config.trainer.test_freq)
        with open_tracker(config, folder, step, console, only_validates) as tracker, console:
            for line in [*lines, *notices]:
                console.notice(line)
            samples = SampleWriter(folder, max(_TRAIN_SAMPLES, num_samples), step, amends=only_validates)
            try:
                yield _frame(folder, found, console, tracker, samples, device)
            finally:
                samples.close()


def _frame(
    folder: Path,
    found: Checkpoint | None,
    console: ConsoleLogger,
    tracker: Tracker,
    samples: SampleWriter,
    device: str,
) -> Frame:
    said: set[str] = set()

    def say_once(text: str, subject: str) -> None:
        if subject not in said:
            said.add(subject)
            console.notice(text)

    clock = PhaseClock(
        torch.cuda.synchronize if device == "cuda" else lambda: None, console.phase, on_count=console.count
    )
    return Frame(folder, found, console, tracker, samples, clock, say_once)
