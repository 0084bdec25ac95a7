"""Supervised fine-tuning: cross-entropy on given answers, over the same packed rows, checkpoints and metrics as RL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from gspo.algorithms import agg_loss
from gspo.algorithms.stats import Mean, Stat, merge_stats, to_floats
from gspo.checkpoint import load_checkpoint, rng_state, save_checkpoint, set_rng_state
from gspo.config import Config, require_keys
from gspo.data import PromptDataset, PromptSampler, load_dataset
from gspo.groups import Group, GroupBatch, Prompt
from gspo.models import Policy, micro_batches
from gspo.observe import ConsoleLogger, PhaseClock, Tracker, build_report, throughput_metrics
from gspo.trainer.actor import Actor, load_actor_tokenizer, load_policy
from gspo.trainer.answers import answer_response
from gspo.trainer.folder import (
    hold,
    nothing_to_train,
    open_tracker,
    run_folder,
    where_to_resume,
    write_config,
)
from gspo.trainer.run import choose_device, longest_sequence

__all__ = ["answer_response", "sft"]


@dataclass
class _SftRun:
    """A supervised run and where it stands; `step` is the last finished step."""

    config: Config
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    actor: Actor
    train_data: PromptDataset
    val_data: PromptDataset | None
    sampler: PromptSampler
    tracker: Tracker
    console: ConsoleLogger
    clock: PhaseClock
    total_steps: int
    step: int = 0

    def save(self) -> None:
        random_tensors, random_state = rng_state()
        save_checkpoint(
            self.folder,
            self.step,
            tensors={**self.actor.tensors(), "rng": random_tensors},
            state={
                "actor": self.actor.state(),
                "sampler": self.sampler.state_dict(),
                "rng": random_state,
                "kind": "sft",
            },
            keep=self.config.trainer.max_actor_ckpt_to_keep,
        )

    def restore(self, path: Path) -> None:
        checkpoint = load_checkpoint(path)
        self.sampler.load_state_dict(checkpoint.state["sampler"])
        self.actor.load(checkpoint, checkpoint.state["actor"])
        for warning in set_rng_state(checkpoint.tensors["rng"], checkpoint.state["rng"]):
            self.console.notice(warning)
        self.step = checkpoint.step


def sft(config: Config) -> Path:
    """Trains the model on `data.answer_key` of each row (the prompt is not learned) and returns the run's folder.

    Batch size, epochs, validation and checkpoints follow the same keys as reinforcement learning; the optimizer is the
    actor's. Metrics: `train/loss` and `val/loss` in nats a token, `val/perplexity`.

    Raises:
        ValueError: something the run was given cannot be used; says what and how to mend it.
    """
    with _open(config) as run:
        trainer, told = config.trainer, False
        if run.val_data is not None and trainer.val_before_train and run.step == 0:
            run.tracker.log(_validate(run), 0)
        if run.step >= run.total_steps:
            run.console.notice(nothing_to_train(run.step, run.total_steps))
        for step in range(run.step + 1, run.total_steps + 1):
            with run.clock("step"):
                prompts = [run.train_data[index] for index in run.sampler.next_batch()]
                stats = _update(run, prompts)
            run.step = step
            last = step == run.total_steps
            metrics = to_floats(stats)
            if metrics["train/answers_cut"] and not told:
                told = True
                run.console.notice(
                    f"answers longer than data.max_response_length={config.data.max_response_length} tokens are cut "
                    "and do not teach where to end (train/answers_cut counts them): raise it"
                )
            if run.val_data is not None and (last or (trainer.test_freq > 0 and step % trainer.test_freq == 0)):
                metrics |= _validate(run)
            timing = run.clock.pop()
            metrics |= timing | throughput_metrics(int(metrics["train/num_tokens"]), timing["timing_s/step"])
            metrics |= {"training/global_step": float(step), "training/epoch": float(run.sampler.epoch)}
            run.tracker.log(metrics, step)
            if last or (trainer.save_freq > 0 and step % trainer.save_freq == 0):
                run.save()
        if trainer.save_hf:
            run.actor.export(run.tokenizer, run.folder / "huggingface")
        build_report(run.folder)
    return run.folder


def _batch(run: _SftRun, prompts: Sequence[Prompt]) -> GroupBatch:
    limit = run.config.data.max_response_length
    groups = []
    for prompt in prompts:
        assert prompt.teacher_response is not None  # the dataset requires it
        groups.append(Group(prompt, [answer_response(prompt.teacher_response, run.tokenizer, limit)]))
    return GroupBatch.from_groups(groups, run.actor.policy.device)


def _update(run: _SftRun, prompts: Sequence[Prompt]) -> dict[str, Stat]:
    batch = _batch(run, prompts)
    num_tokens = batch["response_mask"].sum()
    stats: list[dict[str, Stat]] = [{"actor/lr": Mean(run.actor.lr), "train/num_tokens": Mean(num_tokens)}]
    for part, loss in _losses(run, batch, run.actor.policy):
        (loss / num_tokens).backward()
        cut = sum(r.finish_reason == "length" for group in part.groups for r in group.responses)
        stats.append(
            {
                "train/loss": Mean(loss.detach(), part["response_mask"].sum()),
                "train/answers_cut": Mean(float(cut), float(len(part))),
            }
        )
    stats.append(run.actor.step())
    run.actor.advance()
    return merge_stats(stats)


@torch.no_grad()
def _validate(run: _SftRun) -> dict[str, float]:
    assert run.val_data is not None
    with run.clock("testing"):
        stats: list[dict[str, Stat]] = []
        for part, loss in _losses(run, _batch(run, run.val_data.prompts), run.actor.policy):
            stats.append({"val/loss": Mean(loss, part["response_mask"].sum())})
    metrics = to_floats(merge_stats(stats))
    return metrics | {"val/perplexity": math.exp(min(metrics["val/loss"], 700.0))}


def _losses(run: _SftRun, batch: GroupBatch, policy: Policy) -> Iterator[tuple[GroupBatch, torch.Tensor]]:
    """Summed negative log-likelihood of each micro-batch."""
    for part in micro_batches(batch, run.config.actor_rollout_ref.actor.ppo_max_token_len_per_gpu):
        log_prob, _ = policy.log_probs(part)
        yield part, agg_loss(-log_prob, part["response_mask"], "token-mean", batch_num_tokens=1)


@contextmanager
def _open(config: Config) -> Iterator[_SftRun]:
    require_keys(config, "actor_rollout_ref.model.path", "data.train_files")
    model, trainer = config.actor_rollout_ref.model, config.trainer
    data = replace(config.data, teacher_key=config.data.answer_key)
    device = choose_device(config)
    tokenizer = load_actor_tokenizer(model)
    train_data = load_dataset(
        data.train_files, data, tokenizer, require_teacher=True, max_samples=data.train_max_samples
    )
    val_data = None
    if data.val_files:
        val_data = load_dataset(data.val_files, data, tokenizer, require_teacher=True, max_samples=data.val_max_samples)
    assert data.seed is not None  # resolved
    sampler = PromptSampler(len(train_data), data.train_batch_size, data.shuffle, data.seed, train_data.fingerprint)
    total_steps = trainer.total_training_steps or trainer.total_epochs * sampler.batches_per_epoch
    torch.manual_seed(trainer.seed)
    policy = load_policy(model, tokenizer, device, longest_sequence(data, train_data, val_data))
    checkpoint, lines = where_to_resume(config, "sft")
    folder = run_folder(config, checkpoint, lines.append)
    header = {
        "model": f"{model.path} ({type(policy.model).__name__}, {policy.model.num_parameters() / 1e6:.1f}M)",
        "algorithm": f"supervised fine-tuning on {data.teacher_key}, lr {config.actor_rollout_ref.actor.optim.lr:g}",
        "data": train_data.summary(),
        "run folder": str(folder),
    }
    with ExitStack() as stack:
        stack.enter_context(hold(folder))
        console = ConsoleLogger(total_steps, header)
        resume_step = load_checkpoint(checkpoint).step if checkpoint is not None else None
        tracker = stack.enter_context(open_tracker(config, folder, resume_step, console))
        stack.enter_context(console)
        for line in lines:
            console.notice(line)
        run = _SftRun(
            config,
            folder,
            tokenizer,
            Actor(policy, config.actor_rollout_ref.actor.optim, total_steps),
            train_data,
            val_data,
            sampler,
            tracker,
            console,
            PhaseClock(on_phase=console.phase),
            total_steps,
        )
        if checkpoint is not None:
            run.restore(checkpoint)
            console.notice(f"resumed from {checkpoint} after step {run.step} of {total_steps}")
        if run.step < total_steps:
            for line in write_config(folder, config, run.step):
                console.notice(line)
        yield run
