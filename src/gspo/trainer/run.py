"""A run: everything a training loop works with, set up from a config, in a folder of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from gspo.algorithms.kl import AdaptiveKLController, FixedKLController, get_kl_controller
from gspo.checkpoint import Checkpoint, CheckpointError
from gspo.config import Config, notices, require_keys, require_supported
from gspo.models import Policy, output_head
from gspo.observe import PhaseClock, SampleWriter
from gspo.rewards import RewardManager
from gspo.rollout import LocalEngine, RolloutEngine
from gspo.trainer.actor import Actor, load_actor_tokenizer, load_policy
from gspo.trainer.base_run import BaseRun
from gspo.trainer.critic import Critic, load_critic
from gspo.trainer.external import load_external
from gspo.trainer.folder import hold, run_folder, where_to_resume
from gspo.trainer.gad import Stages
from gspo.trainer.header import run_header
from gspo.trainer.opening import choose_device, longest_sequence, read_data, resume_step, watched

__all__ = ["Run", "open_run"]

# Training responses kept in samples.jsonl for each step.
_TRAIN_SAMPLES = 4


@dataclass(kw_only=True)
class Run(BaseRun):
    """What a training loop works with, and where it stands.

    Attributes:
        stages: which steps train what.
        samples_serve: whether the samples' log-probabilities are the policy's; None until a batch was compared.
        reference_step: the step whose weights the reference holds; 0 for the model that the run began with.
    """

    kind: ClassVar[str] = "train"

    critic: Critic | None
    reference: Policy | None
    kl_controller: AdaptiveKLController | FixedKLController
    engine: RolloutEngine
    rewards: RewardManager
    samples: SampleWriter
    stages: Stages
    samples_serve: bool | None = None
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

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint; the engine samples with its weights from here on."""
        super().restore(path)
        self.engine.load_weights(self.actor.policy, self.step)

    def _more_to_save(self) -> tuple[dict[str, Mapping[str, Tensor]], dict[str, Any]]:
        tensors: dict[str, Mapping[str, Tensor]] = {}
        state: dict[str, Any] = {
            "kl_controller": self.kl_controller.state_dict(),
            "reference_step": self.reference_step,
        }
        if self.critic is not None:
            tensors |= self.critic.tensors()
            state["critic"] = self.critic.state()
        if self.config.wants_discriminator:
            state["stage"] = {"name": self.stages.at(self.step).name.lower(), "warmup_steps": self.stages.warmup}
        if self.reference is not None and self.reference_step > 0:
            tensors["reference"] = self.reference.model.state_dict()
        return tensors, state

    def _check(self, checkpoint: Checkpoint) -> None:
        warmup = checkpoint.state.get("stage", {"warmup_steps": 0})["warmup_steps"]
        if warmup != self.stages.warmup:
            raise CheckpointError(
                f"{checkpoint.path} is of a run with {warmup} steps of GAD's warmup, and this run has "
                f"{self.stages.warmup}: set trainer.gad_warmup_steps={warmup}, or trainer.resume_mode=disable to start "
                "again"
            )

    def _load_more(self, checkpoint: Checkpoint) -> None:
        if self.critic is not None:
            self.critic.load(checkpoint, checkpoint.state.get("critic", {}))
        elif "critic" in checkpoint.state:
            self.console.notice(f"{checkpoint.path} holds a critic, which this run does not train: it goes on without")
        self.kl_controller.load_state_dict(checkpoint.state["kl_controller"])
        if self.reference is not None and "reference" in checkpoint.tensors:
            self.reference.model.load_state_dict(checkpoint.tensors["reference"])
            self.reference_step = checkpoint.state["reference_step"]


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
    train_data, val_data, sampler = read_data(data, tokenizer, train_teacher=distils)
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
        header = run_header(config, policy, train_data, folder)
        if distils:
            header["stages"] = stages.summary(total_steps)
        engine = make_engine(
            policy, tokenizer, seed=trainer.seed, max_num_seqs=config.actor_rollout_ref.rollout.max_num_seqs
        )
        stack.callback(engine.close)
        said = [*lines, *notices(config, output_head(policy.model).weight.shape[0])]
        console, tracker = stack.enter_context(watched(config, folder, checkpoint, total_steps, header, said))
        limit = max(_TRAIN_SAMPLES, trainer.log_val_generations)
        samples = SampleWriter(folder, limit, resume_step(checkpoint), amends=trainer.val_only)
        stack.callback(samples.close)
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
        run.begin(checkpoint)
        yield run
