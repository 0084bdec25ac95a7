"""A run: everything a training loop works with, set up from a config, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gspo.algorithms.kl import AdaptiveKLController, FixedKLController, get_kl_controller
from gspo.checkpoint import find_latest, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from gspo.config import Config, ConfigError, notices, render, require_keys, require_supported
from gspo.config.schema import to_dict
from gspo.data import PromptDataset, PromptSampler, load_dataset
from gspo.models import Policy
from gspo.observe import ConsoleLogger, PhaseClock, SampleWriter, Tracker, make_tracker
from gspo.rewards import RewardManager
from gspo.rollout import LocalEngine, RolloutEngine
from gspo.trainer.actor import Actor, load_actor_tokenizer, load_policy

__all__ = ["Run", "open_run"]

# Training responses kept in samples.jsonl for each step.
_TRAIN_SAMPLES = 4


@dataclass
class Run:
    """What a training loop works with, and where it stands.

    Attributes:
        step: the last finished step; 0 at the start.
        total_steps: the step after which the run is done.
    """

    config: Config
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    actor: Actor
    reference: Policy | None
    kl_controller: AdaptiveKLController | FixedKLController
    engine: RolloutEngine
    rewards: RewardManager
    train_data: PromptDataset
    val_data: PromptDataset | None
    sampler: PromptSampler
    tracker: Tracker
    console: ConsoleLogger
    samples: SampleWriter
    clock: PhaseClock
    total_steps: int
    step: int = 0
    seen_errors: set[str] = field(default_factory=set)

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        random_tensors, random_state = rng_state()
        state = {
            "actor": self.actor.state(),
            "sampler": self.sampler.state_dict(),
            "kl_controller": self.kl_controller.state_dict(),
            "rng": random_state,
        }
        return save_checkpoint(
            self.folder,
            self.step,
            tensors={**self.actor.tensors(), "rng": random_tensors},
            state=state,
            keep=self.config.trainer.max_actor_ckpt_to_keep,
        )

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint; the engine samples with its weights from here on."""
        checkpoint = load_checkpoint(path)
        self.sampler.load_state_dict(checkpoint.state["sampler"])
        self.actor.load(checkpoint, checkpoint.state["actor"])
        self.kl_controller.load_state_dict(checkpoint.state["kl_controller"])
        for warning in set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"]):
            self.console.notice(warning)
        self.step = checkpoint.step
        self.engine.load_weights(self.actor.policy, self.step)


@contextmanager
def open_run(config: Config, *, make_engine: Callable[..., RolloutEngine] = LocalEngine) -> Iterator[Run]:
    """Sets a run up, resumed where the config says so, and closes it again.

    Args:
        config: the resolved configuration.
        make_engine: makes the rollout engine, called like `LocalEngine`.

    Raises:
        ValueError: a key, file, row or model cannot be used; says which and what to do.
    """
    require_supported(config)
    require_keys(config, "actor_rollout_ref.model.path", "data.train_files")
    _load_modules(config.algorithm.external_modules)
    trainer, model, data = config.trainer, config.actor_rollout_ref.model, config.data
    device = choose_device(config)
    tokenizer = load_actor_tokenizer(model)
    train_data = load_dataset(data.train_files, data, tokenizer, max_samples=data.train_max_samples)
    val_data = (
        load_dataset(data.val_files, data, tokenizer, max_samples=data.val_max_samples) if data.val_files else None
    )
    assert data.seed is not None  # resolved
    sampler = PromptSampler(len(train_data), data.train_batch_size, data.shuffle, data.seed)
    total_steps = trainer.total_training_steps or trainer.total_epochs * sampler.batches_per_epoch
    longest = data.max_prompt_length + data.max_response_length
    torch.manual_seed(trainer.seed)
    policy = load_policy(model, tokenizer, device, longest)
    reference = load_policy(model, tokenizer, device, longest, train=False) if config.uses_reference else None
    checkpoint, lines = where_to_resume(config)
    folder = run_folder(config, resumed=checkpoint is not None, say=lines.append)
    with ExitStack() as stack:
        rewards = stack.enter_context(
            RewardManager(config.reward, config.custom_reward_function, max_response_length=data.max_response_length)
        )
        console = ConsoleLogger(total_steps, _header(config, policy, train_data, folder))
        engine = make_engine(
            policy, tokenizer, seed=trainer.seed, max_num_seqs=config.actor_rollout_ref.rollout.max_num_seqs
        )
        stack.callback(engine.close)
        resume_step = load_checkpoint(checkpoint).step if checkpoint is not None else None
        tracker = stack.enter_context(open_tracker(config, folder, resume_step, console))
        samples = SampleWriter(folder, max(_TRAIN_SAMPLES, trainer.log_val_generations), resume_step)
        stack.callback(samples.close)
        stack.enter_context(console)
        for line in [*lines, *notices(config)]:
            console.notice(line)
        synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
        run = Run(
            config=config,
            folder=folder,
            tokenizer=tokenizer,
            actor=Actor(policy, config.actor_rollout_ref.actor.optim, total_steps),
            reference=reference,
            kl_controller=get_kl_controller(config.algorithm.kl_ctrl),
            engine=engine,
            rewards=rewards,
            train_data=train_data,
            val_data=val_data,
            sampler=sampler,
            tracker=tracker,
            console=console,
            samples=samples,
            clock=PhaseClock(synchronize, console.phase),
            total_steps=total_steps,
        )
        if checkpoint is not None:
            run.restore(checkpoint)
            console.notice(f"resumed from {checkpoint} after step {run.step} of {total_steps}")
        yield run


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


def run_folder(config: Config, *, resumed: bool, say: Callable[[str], None]) -> Path:
    """The run's folder with the resolved config in it; what an earlier run left there is moved aside, never lost."""
    folder = Path(config.trainer.default_local_dir or "runs")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"trainer.default_local_dir: {folder} is a file: name a folder", "trainer.default_local_dir")
    used = (folder / "metrics.jsonl").exists() or (folder / "checkpoints").exists()
    if used and not resumed:
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


def where_to_resume(config: Config) -> tuple[Path | None, list[str]]:
    """The checkpoint to go on from, and what finding it had to say."""
    trainer = config.trainer
    if trainer.resume_mode == "disable":
        return None, []
    if trainer.resume_mode == "resume_path":
        return Path(trainer.resume_from_path or ""), []
    latest = find_latest(Path(trainer.default_local_dir or "runs"))
    return latest.path, list(latest.warnings)


def _load_modules(files: Sequence[str]) -> None:
    """Runs the user's files, so that what they register is known."""
    for number, file in enumerate(files):
        path = Path(file)
        if not path.is_file():
            raise ConfigError(f"algorithm.external_modules: there is no file {file}", "algorithm.external_modules")
        spec = spec_from_file_location(f"gspo_external_{number}_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(module_from_spec(spec))


def _header(config: Config, policy: Policy, data: PromptDataset, folder: Path) -> dict[str, str]:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    model = policy.model
    millions = model.num_parameters() / 1e6
    clip: Any = actor.clip_ratio_low, actor.clip_ratio_high
    return {
        "model": f"{config.actor_rollout_ref.model.path} ({type(model).__name__}, {millions:.1f}M, {model.dtype})",
        "algorithm": f"{actor.policy_loss.loss_mode} with {config.algorithm.adv_estimator} advantages, "
        f"clip {json.dumps(clip)[1:-1]}, {actor.loss_agg_mode}, lr {actor.optim.lr:g}",
        "data": data.summary(),
        "batch": f"{config.data.train_batch_size} prompts x {rollout.n} responses, "
        f"mini-batches of {actor.ppo_mini_batch_size} prompts",
        "run folder": str(folder),
    }
