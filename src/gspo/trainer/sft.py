"""Supervised fine-tuning: cross-entropy on given answers, over the same packed rows, checkpoints and metrics as RL."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from gspo.algorithms.stats import Mean, merge_stats, to_floats
from gspo.checkpoint import seed_generators
from gspo.config import Config, require_honoured, require_keys, supervised_notices
from gspo.data.sampler import shard
from gspo.groups import Group, GroupBatch, Prompt
from gspo.models import Ends, load_actor_tokenizer, load_policy
from gspo.observe import Facts, Watch
from gspo.trainer.batching import Cut
from gspo.trainer.critics import Stats
from gspo.trainer.folder import find_checkpoint
from gspo.trainer.loop import train_run
from gspo.trainer.naming import in_own_folder
from gspo.trainer.opening import Frame, Given, Ground, framed, keep_models, read_ground, setting_up, steps_line
from gspo.trainer.run import JsonState, RandomState, Run, Taken
from gspo.trainer.supervised import answer_response, cross_entropy
from gspo.trainer.trained import Actor
from gspo.world import World

__all__ = ["answer_response", "sft"]


def sft(config: Config, given: Given | None = None) -> Path:
    """Trains the model on `data.answer_key` of each row (the prompt is not learned) and returns the run's folder.

    Batch size, epochs, validation and checkpoints follow the same keys as reinforcement learning; the optimizer is the
    actor's. Metrics: `train/loss` and `val/loss` in nats a token, `val/perplexity`.

    Raises:
        ValueError: something the run was given cannot be used; says what and how to fix it.
    """
    with _opened(config, given or Given()) as run:
        train_run(run)
    return run.folder


class _Supervised:
    """The steps and the validation of a supervised run."""

    def __init__(self, config: Config, ground: Ground, actor: Actor, frame: Frame, world: World) -> None:
        self._ground, self._actor, self._frame, self._world = ground, actor, frame, world
        self._limit = config.data.max_response_length
        self._ends = Ends.of(ground.tokenizer, actor.policy.model)
        # One training step is one optimizer step on the whole batch.
        self._cut = Cut.into_passes(config.actor)

    def take_step(self, step: int) -> Taken:
        """One optimizer step on the next batch."""
        del step
        indices = shard(self._ground.sampler.next_batch(), self._world.rank, self._world.size)
        batch = self._batch([self._ground.train_data[index] for index in indices])
        num_tokens = batch.num_tokens
        stats: list[Stats] = [{"actor/lr": Mean(self._actor.lr), "train/num_tokens": Mean(num_tokens)}]
        for part, share, mean in cross_entropy(batch, self._actor.policy, self._cut, self._world):
            self._actor.backward(share)
            cut = sum(r.finish_reason == "length" for group in part.groups for r in group.responses)
            stats.append({"train/loss": mean, "train/answers_cut": Mean(float(cut), float(len(part)))})
        stats.append(self._actor.step())
        self._actor.advance()
        merged = merge_stats(stats)
        if float(merged["train/answers_cut"]):
            self._frame.say_once(
                f"answers longer than data.max_response_length={self._limit} tokens are cut and do not teach where to "
                "end (train/answers_cut counts them): raise it",
                "cut answers",
            )
        return Taken([], merged, int(num_tokens))

    @torch.no_grad()
    def validate(self, step: int) -> dict[str, float]:
        """The loss on the held-out answers; nothing without any. Every rank measures all of them."""
        del step
        if self._ground.val_data is None:
            return {}
        with self._frame.clock("testing"):
            parts = cross_entropy(
                self._batch(self._ground.val_data.prompts), self._actor.policy, self._cut, self._world
            )
            stats = merge_stats([{"val/loss": mean} for _, _, mean in parts])
        metrics = to_floats(stats)
        return metrics | {"val/perplexity": math.exp(min(metrics["val/loss"], 700.0))}

    def _batch(self, prompts: Sequence[Prompt]) -> GroupBatch:
        groups = []
        for prompt in prompts:
            assert prompt.teacher_response is not None  # the dataset requires it
            answer = answer_response(prompt.teacher_response, self._ground.tokenizer, self._limit, self._ends)
            groups.append(Group(prompt, [answer]))
        return GroupBatch.from_groups(groups, self._actor.policy.device)


@contextmanager
def _opened(config: Config, given: Given) -> Iterator[Run]:
    require_honoured(config)
    missing = {"actor_rollout_ref.model.path": given.model, "data.train_files": given.train_data}
    require_keys(config, *(key for key, value in missing.items() if value is None))
    named: list[str] = []
    config = in_own_folder(config, given.keys, named.append)
    section, trainer, optim = config.policy_model, config.trainer, config.actor.optim
    with ExitStack() as stack:
        heart = stack.enter_context(setting_up(given.world))
        heart.phase("data")
        tokenizer = given.tokenizer or load_actor_tokenizer(section)
        found, warnings = find_checkpoint(trainer, "sft")
        lines = [*named, *warnings]
        ground = read_ground(
            config, given, tokenizer, found, train_teacher=True, val_teacher=True, text_key="answer_key"
        )
        total_steps = trainer.total_training_steps or trainer.total_epochs * ground.sampler.batches_per_epoch
        config = keep_models(config, given, found, lines.append)
        section = config.policy_model
        seed_generators(trainer.seed)
        heart.phase("load")
        policy = load_policy(section, tokenizer, ground.device, ground.longest, model=given.model)
        heart.close()
        header = {
            "model": f"{section.path} ({type(policy.model).__name__}, {policy.model.num_parameters() / 1e6:.1f}M)",
            "algorithm": f"supervised fine-tuning on {config.data.answer_key}, lr {optim.lr:g}",
            "data": ground.train_data.summary(),
            "steps": steps_line(total_steps, ground.sampler),
        }
        notices = [*lines, *ground.origin.notices, *policy.notices, *supervised_notices(config), *ground.notices]
        frame = stack.enter_context(framed(config, found, given.world, ground.device, total_steps, header, notices))
        actor = Actor(policy, optim, total_steps, given.world)
        work = _Supervised(config, ground, actor, frame, given.world)
        run = Run(
            kind="sft",
            config=config,
            folder=frame.folder,
            world=given.world,
            tokenizer=tokenizer,
            actor=actor,
            train_data=ground.train_data,
            val_data=ground.val_data,
            sampler=ground.sampler,
            tracker=frame.tracker,
            console=frame.console,
            clock=frame.clock,
            samples=frame.samples,
            total_steps=total_steps,
            parts={
                "actor": actor,
                "sampler": JsonState("sampler", ground.sampler),
                "origin": ground.origin,
                "rng": RandomState(frame.console.notice),
            },
            take_step=work.take_step,
            validate=work.validate,
            say_once=frame.say_once,
            watch=Watch(Facts(lr=config.actor.optim.lr)),
            callbacks=given.callbacks,
        )
        run.begin(frame.found)
        yield run
