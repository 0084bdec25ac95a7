"""A run: everything a training loop works with, set up from a config, in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from gspo.algorithms.kl import AdaptiveKLController, FixedKLController, get_kl_controller
from gspo.checkpoint import CheckpointError, load_checkpoint, rng_state, save_checkpoint, set_rng_state
from gspo.config import Config, ConfigError, notices, require_keys, require_supported
from gspo.config.schema import DataConfig
from gspo.data import PromptDataset, PromptSampler, load_dataset
from gspo.models import Policy
from gspo.observe import ConsoleLogger, PhaseClock, SampleWriter, Tracker
from gspo.rewards import RewardManager
from gspo.rollout import LocalEngine, RolloutEngine
from gspo.trainer.actor import Actor, load_actor_tokenizer, load_policy
from gspo.trainer.critic import Critic, load_critic
from gspo.trainer.external import load_external
from gspo.trainer.folder import hold, open_tracker, run_folder, where_to_resume, write_config
from gspo.trainer.gad import Stages

__all__ = ["Run", "open_run"]

# Training responses kept in samples.jsonl for each step.
_TRAIN_SAMPLES = 4


@dataclass
class Run:
    """What a training loop works with, and where it stands.

    Attributes:
        step: the last finished step; 0 at the start.
        total_steps: the step after which the run is done.
        stages: which steps train what.
        reference_step: the step whose weights the reference holds; 0 for the model that the run began with.
    """

    config: Config
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    actor: Actor
    critic: Critic | None
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
    stages: Stages
    step: int = 0
    reference_step: int = 0
    told: set[str] = field(default_factory=set)

    def tell_once(self, text: str, subject: str) -> None:
        """Says something to the person who watches, the first time that it is about this subject."""
        if subject not in self.told:
            self.told.add(subject)
            self.console.notice(text)

    def sync_reference(self, step: int) -> None:
        """Makes the policy the reference where `actor_rollout_ref.ref.sync_steps` says that it is time to.

        GAD's reference is the student after its warmup.
        """
        every = self.config.actor_rollout_ref.ref.sync_steps
        warm = 0 < self.stages.warmup == step
        if self.reference is not None and (warm or (every is not None and step % every == 0)):
            self.reference.model.load_state_dict(self.actor.policy.model.state_dict())
            self.reference_step = step

    def save(self) -> Path:
        """Writes a checkpoint of the current step."""
        random_tensors, random_state = rng_state()
        state = {
            "actor": self.actor.state(),
            "sampler": self.sampler.state_dict(),
            "kl_controller": self.kl_controller.state_dict(),
            "reference_step": self.reference_step,
            "rng": random_state,
            "kind": "train",
        }
        tensors = {**self.actor.tensors(), "rng": random_tensors}
        if self.critic is not None:
            state["critic"] = self.critic.state()
            tensors |= self.critic.tensors()
        if self.config.wants_discriminator:
            state["stage"] = {"name": self.stages.at(self.step).name.lower(), "warmup_steps": self.stages.warmup}
        if self.reference is not None and self.reference_step > 0:
            tensors["reference"] = self.reference.model.state_dict()
        return save_checkpoint(
            self.folder,
            self.step,
            tensors=tensors,
            state=state,
            keep=self.config.trainer.max_actor_ckpt_to_keep,
        )

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint; the engine samples with its weights from here on."""
        checkpoint = load_checkpoint(path)
        warmup = checkpoint.state.get("stage", {"warmup_steps": 0})["warmup_steps"]
        if warmup != self.stages.warmup:
            raise CheckpointError(
                f"{path} is of a run with {warmup} steps of GAD's warmup, and this run has {self.stages.warmup}: set "
                f"trainer.gad_warmup_steps={warmup}, or trainer.resume_mode=disable to start again"
            )
        self.sampler.load_state_dict(checkpoint.state["sampler"])
        self.actor.load(checkpoint, checkpoint.state["actor"])
        if self.critic is not None:
            self.critic.load(checkpoint, checkpoint.state.get("critic", {}))
        elif "critic" in checkpoint.state:
            self.console.notice(f"{path} holds a critic, which this run does not train: it goes on without")
        self.kl_controller.load_state_dict(checkpoint.state["kl_controller"])
        if self.reference is not None and "reference" in checkpoint.tensors:
            self.reference.model.load_state_dict(checkpoint.tensors["reference"])
            self.reference_step = checkpoint.state["reference_step"]
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
    if config.trainer.val_only:
        require_keys(config, "data.val_files")
    load_external(config)
    trainer, model, data = config.trainer, config.actor_rollout_ref.model, config.data
    device = choose_device(config)
    tokenizer = load_actor_tokenizer(model)
    distils = config.wants_discriminator
    train_data = load_dataset(
        data.train_files, data, tokenizer, require_teacher=distils, max_samples=data.train_max_samples
    )
    val_data = (
        load_dataset(data.val_files, data, tokenizer, max_samples=data.val_max_samples) if data.val_files else None
    )
    assert data.seed is not None  # resolved
    sampler = PromptSampler(len(train_data), data.train_batch_size, data.shuffle, data.seed, train_data.fingerprint)
    stages = Stages.of(config, sampler.batches_per_epoch)
    total_steps = stages.warmup + (trainer.total_training_steps or trainer.total_epochs * sampler.batches_per_epoch)
    longest = longest_sequence(data, train_data, val_data)
    torch.manual_seed(trainer.seed)
    policy = load_policy(model, tokenizer, device, longest, with_values=config.shares_backbone)
    reference = load_policy(model, tokenizer, device, longest, train=False) if config.uses_reference else None
    critic = None
    if config.critic.enable and not config.shares_backbone:
        critic = load_critic(config, tokenizer, device, longest, total_steps)
    actor_steps = total_steps - stages.warmup - stages.critic_only
    checkpoint, lines = where_to_resume(config, "train")
    if actor_steps <= 0:
        lines.append(
            f"trainer.critic_warmup={trainer.critic_warmup} is no less than the {total_steps - stages.warmup} steps "
            f"of this run{' after its warmup' if stages.warmup else ''}: the policy is never updated"
        )
    folder = run_folder(config, checkpoint, lines.append)
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        rewards = stack.enter_context(
            RewardManager(
                config.reward,
                config.custom_reward_function,
                max_response_length=data.max_response_length,
                source_optional=distils,
            )
        )
        header = _header(config, policy, train_data, folder)
        if distils:
            header["stages"] = stages.summary(total_steps)
        console = ConsoleLogger(total_steps, header)
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
            actor=Actor(policy, config.actor_rollout_ref.actor.optim, actor_steps),
            critic=critic,
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
            stages=stages,
        )
        if checkpoint is not None:
            run.restore(checkpoint)
            console.notice(f"resumed from {checkpoint} after step {run.step} of {total_steps}")
        if run.step < total_steps:
            for line in write_config(folder, config, run.step):
                console.notice(line)
        yield run


def longest_sequence(config: DataConfig, *datasets: PromptDataset | None) -> int:
    """Tokens of the longest prompt that these datasets hold and the longest response after it."""
    longest = max(dataset.longest for dataset in datasets if dataset is not None)
    return min(longest, config.max_prompt_length) + config.max_response_length


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


def _header(config: Config, policy: Policy, data: PromptDataset, folder: Path) -> dict[str, str]:
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    model = policy.model
    millions = model.num_parameters() / 1e6
    clip: Any = actor.clip_ratio_low, actor.clip_ratio_high
    path, own_lr = config.critic.model.path or config.actor_rollout_ref.model.path, f"lr {config.critic.optim.lr:g}"
    if config.wants_discriminator:
        critic = f"discriminator (GAD) on {path}, teacher in {config.data.teacher_key}, {own_lr}"
    else:
        shared = config.shares_backbone
        critic = (
            f"value head on {'the actor itself' if shared else path}, clip {config.critic.cliprange_value:g}, "
            f"{config.critic.loss_agg_mode}, {f'weight {config.critic.value_loss_coef:g}' if shared else own_lr}"
        )
    return {
        "model": f"{config.actor_rollout_ref.model.path} ({type(model).__name__}, {millions:.1f}M, {model.dtype})",
        "algorithm": f"{actor.policy_loss.loss_mode} with {config.algorithm.adv_estimator} advantages, "
        f"clip {json.dumps(clip)[1:-1]}, {actor.loss_agg_mode}, lr {actor.optim.lr:g}",
        **({"critic": critic} if config.critic.enable else {}),
        "data": data.summary(),
        "batch": f"{config.data.train_batch_size} prompts x {rollout.n} responses, "
        f"mini-batches of {actor.ppo_mini_batch_size} prompts",
        "run folder": str(folder),
    }
