"""Supervised fine-tuning: cross-entropy on given answers, over the same packed rows, checkpoints and metrics as RL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch

from gspo.algorithms.stats import Mean, Stat, merge_stats, to_floats
from gspo.config import Config, require_keys, supervised_notices
from gspo.groups import Group, GroupBatch, Prompt
from gspo.observe import PhaseClock, build_report, throughput_metrics
from gspo.trainer.actor import Actor, load_actor_tokenizer, load_policy
from gspo.trainer.answers import answer_response
from gspo.trainer.base_run import BaseRun
from gspo.trainer.cross_entropy import cross_entropy
from gspo.trainer.folder import (
    hold,
    nothing_to_train,
    run_folder,
    where_to_resume,
)
from gspo.trainer.opening import choose_device, longest_sequence, read_data, watched

__all__ = ["answer_response", "sft"]


@dataclass(kw_only=True)
class _SftRun(BaseRun):
    """A supervised run and where it stands."""

    kind: ClassVar[str] = "sft"


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
    stats: list[dict[str, Stat]] = [{"actor/lr": Mean(run.actor.lr), "train/num_tokens": Mean(batch.num_tokens)}]
    for part, share, mean in cross_entropy(batch, run.actor.policy, run.config):
        share.backward()
        cut = sum(r.finish_reason == "length" for group in part.groups for r in group.responses)
        stats.append({"train/loss": mean, "train/answers_cut": Mean(float(cut), float(len(part)))})
    stats.append(run.actor.step())
    run.actor.advance()
    return merge_stats(stats)


@torch.no_grad()
def _validate(run: _SftRun) -> dict[str, float]:
    assert run.val_data is not None
    with run.clock("testing"):
        parts = cross_entropy(_batch(run, run.val_data.prompts), run.actor.policy, run.config)
        stats = merge_stats([{"val/loss": mean} for _, _, mean in parts])
    metrics = to_floats(stats)
    return metrics | {"val/perplexity": math.exp(min(metrics["val/loss"], 700.0))}


@contextmanager
def _open(config: Config) -> Iterator[_SftRun]:
    require_keys(config, "actor_rollout_ref.model.path", "data.train_files")
    model, trainer, data = config.actor_rollout_ref.model, config.trainer, config.data
    device = choose_device(config)
    tokenizer = load_actor_tokenizer(model)
    train_data, val_data, sampler = read_data(
        data, tokenizer, train_teacher=True, val_teacher=True, text_key="answer_key"
    )
    total_steps = trainer.total_training_steps or trainer.total_epochs * sampler.batches_per_epoch
    torch.manual_seed(trainer.seed)
    policy = load_policy(model, tokenizer, device, longest_sequence(data, train_data, val_data))
    checkpoint, lines = where_to_resume(config, "sft")
    folder = run_folder(config, checkpoint, lines.append)
    header = {
        "model": f"{model.path} ({type(policy.model).__name__}, {policy.model.num_parameters() / 1e6:.1f}M)",
        "algorithm": f"supervised fine-tuning on {data.answer_key}, lr {config.actor_rollout_ref.actor.optim.lr:g}",
        "data": train_data.summary(),
        "run folder": str(folder),
    }
    said = [*lines, *supervised_notices(config)]
    with hold(folder), watched(config, folder, checkpoint, total_steps, header, said) as (console, tracker):
        run = _SftRun(
            config=config,
            folder=folder,
            tokenizer=tokenizer,
            actor=Actor(policy, config.actor_rollout_ref.actor.optim, total_steps),
            train_data=train_data,
            val_data=val_data,
            sampler=sampler,
            tracker=tracker,
            console=console,
            clock=PhaseClock(on_phase=console.phase),
            total_steps=total_steps,
        )
        run.begin(checkpoint)
        yield run
