"""A run of reinforcement learning, set up from a config: the models that it needs, and everything around them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from gspo.checkpoint import seed_generators
from gspo.config import Config, load_external, notices, require_keys, require_supported
from gspo.config.schema import TrainerConfig
from gspo.groups import Prompt
from gspo.models import Policy, Scorer, load_actor_tokenizer, load_policy
from gspo.rewards import RewardManager
from gspo.rollout import check_engine, require_engine
from gspo.trainer.assembly import Assembly, Kind, Models
from gspo.trainer.folder import find_checkpoint
from gspo.trainer.gad.schedule import Stages
from gspo.trainer.naming import in_own_folder
from gspo.trainer.opening import Given, Ground, framed, keep_models, read_ground, setting_up, steps_line
from gspo.trainer.run import TrainRun

__all__ = ["opened"]

# transformers' initializer_range of most decoders, for a model that names none.
_HEAD_STD = 0.02


@contextmanager
def opened(config: Config, given: Given | None = None) -> Iterator[TrainRun]:
    """Sets a run up, resumed where the config says so, and closes it again.

    Args:
        config: the resolved configuration.
        given: objects in place of what the configuration names.

    Raises:
        ValueError: a key, file, row or model cannot be used; says which and what to do.
    """
    given = given or Given()
    _require(config, given)
    load_external(config)
    if given.engine is None:
        require_engine(config.rollout.name)
    else:
        check_engine(given.engine)
    named: list[str] = []
    config = in_own_folder(config, given.keys, named.append)
    trainer, data, kind = config.trainer, config.data, Kind.of(config)
    with ExitStack() as stack:
        heart = stack.enter_context(setting_up(given.world))
        heart.phase("data")
        tokenizer = given.tokenizer or load_actor_tokenizer(config.policy_model)
        found, warnings = find_checkpoint(trainer, "train")
        lines = [*named, *warnings]
        ground = read_ground(config, given, tokenizer, found, train_teacher=kind.distils)
        rewards = given.reward_manager or stack.enter_context(
            RewardManager(
                config.reward,
                config.custom_reward_function,
                max_response_length=data.max_response_length,
                source_optional=kind.distils,
                functions=given.rewards,
                tokenizer=tokenizer,
            )
        )
        for prompts in filter(None, (ground.train_data, ground.val_data)):
            rewards.check(prompts)
        stages = kind.stages(trainer, ground.sampler.batches_per_epoch)
        steps = trainer.total_training_steps or trainer.total_epochs * ground.sampler.batches_per_epoch
        total_steps = stages.warmup + steps
        config = keep_models(config, given, found, lines.append)
        seed_generators(trainer.seed)
        heart.phase("load")
        models = _load(config, given, ground, kind)
        heart.close()
        frame = stack.enter_context(
            framed(
                config,
                found,
                given.world,
                ground.device,
                total_steps,
                _header(config, kind, models.policy, ground, stages, total_steps),
                [
                    *lines,
                    *ground.origin.notices,
                    *models.policy.notices,
                    *_about_length(trainer, stages, steps),
                    *notices(config, models.policy.vocabulary_size),
                    *rewards.notices,
                    *ground.notices,
                    *rewards.unreadable(_judged_prompts(ground, kind)),
                ],
                num_samples=trainer.log_val_generations,
                only_validates=trainer.val_only,
            )
        )
        if given.reward_manager is None:
            rewards.keep_output(frame.folder)
        run = Assembly(config, given, ground, kind, stages, models, rewards, frame, total_steps).run()
        stack.callback(run.engine.close)
        run.begin(frame.found)
        yield run


def _judged_prompts(ground: Ground, kind: Kind) -> Iterator[Prompt]:
    """The rows whose ground truth is read: of the training data not where a discriminator judges."""
    if not kind.distils:
        yield from ground.train_data.prompts
    if ground.val_data is not None:
        yield from ground.val_data.prompts


def _about_length(trainer: TrainerConfig, stages: Stages, steps: int) -> Iterator[str]:
    if steps <= stages.critic_only:
        yield (
            f"trainer.critic_warmup={trainer.critic_warmup} is no less than the {steps} steps of this run"
            f"{' after its warmup' if stages.warmup else ''}: the policy is never updated"
        )


def _require(config: Config, given: Given) -> None:
    require_supported(config)
    keys = {
        "actor_rollout_ref.model.path": given.model is None,
        "data.train_files": given.train_data is None,
        "data.val_files": config.trainer.val_only and given.val_data is None,
    }
    require_keys(config, *(key for key, needed in keys.items() if needed))


def _load(config: Config, given: Given, ground: Ground, kind: Kind) -> Models:
    section, place = config.policy_model, (ground.tokenizer, ground.device, ground.longest)
    policy = load_policy(section, *place, with_values=kind.shares, model=given.model)
    reference = load_policy(section, *place, train=False) if kind.has_reference else None
    if not kind.distils and (kind.shares or not kind.has_values):
        return Models(policy, reference, None)
    own = config.critic.model.path
    if own is None:
        judge = load_policy(section, *place)
    else:
        judge = load_policy(replace(section, path=own), *place, needs_head=False, path_key="critic.model.path")
    # A discriminator's head is as large as any new layer of the model's kind: scores that are all equal rank nothing.
    usual = getattr(judge.model.config.get_text_config(), "initializer_range", _HEAD_STD)
    return Models(policy, reference, Scorer(judge.model, usual if kind.distils else 0.0, judge.backbone.compute))


def _header(
    config: Config, kind: Kind, policy: Policy, ground: Ground, stages: Stages, total_steps: int
) -> dict[str, str]:
    """What a run says of itself before it trains, as name and text."""
    actor, rollout, model = config.actor, config.rollout, policy.model
    millions = model.num_parameters() / 1e6
    products = policy.backbone.compute.products
    precision = f"{model.dtype}, products in {products}" if products else str(model.dtype)
    clip: Any = actor.clip_ratio_low, actor.clip_ratio_high
    lines = {
        "model": f"{config.policy_model.path} ({type(model).__name__}, {millions:.1f}M, {precision})",
        "algorithm": f"{actor.policy_loss.loss_mode} with {config.algorithm.adv_estimator} advantages, "
        f"clip {json.dumps(clip)[1:-1]}, {actor.loss_agg_mode}, lr {actor.optim.lr:g}",
    }
    if kind.distils or kind.has_values:
        lines["critic"] = _critic_line(config, kind)
    lines["data"] = ground.train_data.summary()
    lines["batch"] = (
        f"{config.data.train_batch_size} prompts x {rollout.n} responses, "
        f"mini-batches of {actor.ppo_mini_batch_size} prompts"
    )
    lines["steps"] = steps_line(total_steps, ground.sampler)
    if kind.distils:
        lines["stages"] = stages.summary(total_steps)
    return lines


def _critic_line(config: Config, kind: Kind) -> str:
    critic = config.critic
    path, own_lr = critic.model.path or config.policy_model.path, f"lr {critic.optim.lr:g}"
    if kind.distils:
        return f"discriminator (GAD) on {path}, teacher in {config.data.teacher_key}, {own_lr}"
    place, last = ("the actor itself", f"weight {critic.value_loss_coef:g}") if kind.shares else (path, own_lr)
    return f"value head on {place}, clip {critic.cliprange_value:g}, {critic.loss_agg_mode}, {last}"
