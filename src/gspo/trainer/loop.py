"""The training loop: sample, score, compare within groups, update, look."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from gspo.algorithms.stats import Mean, Stat, merge_stats, to_floats
from gspo.config import Config
from gspo.groups import Group, GroupBatch
from gspo.observe import batch_metrics, build_report, throughput_metrics
from gspo.rollout import SamplingParams
from gspo.trainer.advantages import add_advantages, add_rewards, judged
from gspo.trainer.answers import add_teachers
from gspo.trainer.critic import Critic, add_values, update_critic
from gspo.trainer.discriminator import add_discriminator_rewards, pair_figures, update_discriminator
from gspo.trainer.filtering import sample_useful
from gspo.trainer.folder import nothing_to_train
from gspo.trainer.gad import Stage, imitate_teacher
from gspo.trainer.old_log_probs import add_old_log_probs
from gspo.trainer.pairs import pair_metrics, teacher_metrics
from gspo.trainer.run import Run, open_run
from gspo.trainer.stages import add_reference, correct_rollout, update_actor
from gspo.trainer.validation import validate
from gspo.trainer.value_head import update_value_head
from gspo.trainer.values import explained

__all__ = ["train", "train_run"]


def train(config: Config) -> Run:
    """Trains as the configuration says and returns the finished run, its report and its export written.

    Raises:
        ValueError: something the run was given cannot be used; says what and how to mend it.
    """
    with open_run(config) as run:
        train_run(run)
    return run


def train_run(run: Run) -> None:
    """The loop over a run that is set up."""
    trainer = run.config.trainer
    if trainer.val_only or (trainer.val_before_train and run.step == 0):
        metrics = validate(run)
        if metrics:
            run.tracker.log(metrics, run.step)
        if trainer.val_only:
            return
    if run.step >= run.total_steps:
        run.console.notice(nothing_to_train(run.step, run.total_steps))
        return
    for step in range(run.step + 1, run.total_steps + 1):
        with run.clock("step"):
            groups, sampled = sample(run, step)
            stats = {**update(run, groups, step), **sampled}
            run.sync_reference(step)
            run.engine.load_weights(run.actor.policy, version=step)
        finish_step(run, step, groups, to_floats(stats))
    finish_run(run)


def sample(run: Run, step: int) -> tuple[list[Group], dict[str, Stat]]:
    """Scored groups to train on, of the next prompts, or of those that teach something (`filter_groups`)."""
    if not run.config.algorithm.filter_groups.enable or run.stages.at(step) is not Stage.ADVERSARIAL:
        groups = collect(run, step)
        return groups, score(run, groups)
    return sample_useful(
        lambda seen: collect(run, step, seen),
        lambda groups: score(run, groups),
        run.config,
        run.sampler.batches_per_epoch,
        run.console.notice,
    )


def collect(run: Run, step: int, seen: Container[str] = ()) -> list[Group]:
    """Samples a group for each prompt of the next batch, but for those whose uid was seen."""
    rollout = run.config.actor_rollout_ref.rollout
    prompts = [run.train_data[index] for index in run.sampler.next_batch()]
    new = [prompt for prompt in prompts if prompt.uid not in seen]
    with run.clock("gen"):
        groups = run.engine.generate(new, training_sampling(run.config), n=rollout.n, step=step)
    if run.config.wants_discriminator:
        add_teachers(groups, run.tokenizer, run.config.data.max_response_length)
    return groups


def score(run: Run, groups: Sequence[Group]) -> dict[str, Stat]:
    """Sets every response's outcome; a scorer's error is told once.

    With a discriminator the reward is its score, from before this step's update, and what `reward` asks for beside it.
    """
    with run.clock("reward"):
        if run.config.wants_discriminator:
            assert run.critic is not None
            stats = run.rewards.score(groups, by_source=False) if run.rewards.configured else {}
            stats |= add_discriminator_rewards(groups, run.critic, run.config)
        else:
            stats = run.rewards.score(groups)
    if float(stats.get("reward/abstained", 0.0)) > 0:
        run.tell_once(
            "a reward abstained (counted in reward/abstained; those responses are left out, samples.jsonl says why)",
            "abstained",
        )
    error = run.rewards.first_error
    if error is not None:
        run.tell_once(f"a reward failed (counted in reward/errors; those responses are left out): {error}", error)
    return stats


def update(run: Run, groups: list[Group], step: int) -> dict[str, Stat]:
    """From scored groups to new weights: the critic's or discriminator's, then the policy's."""
    config, stage = run.config, run.stages.at(step)
    batch = GroupBatch.from_groups(judged(groups, config.algorithm.adv_estimator), run.actor.policy.device)
    stats: dict[str, Stat] = {}
    if config.uses_value_critic or stage is Stage.ADVERSARIAL:
        stats |= prepare(run, batch)
    if config.shares_backbone:
        stats |= explained(batch)
    if run.critic is not None:
        with run.clock("update_critic"):
            stats |= _critic_part(stage, config)(batch, run.critic, config, step)
    if stage is Stage.WARMUP:
        with run.clock("update_actor"):
            stats |= imitate_teacher(batch, run.actor, config, step)
    elif stage is Stage.ADVERSARIAL:
        with run.clock("update_actor"):
            stats |= update_actor(batch, run.actor, config, step, with_entropy="actor/entropy" not in stats)
    elif config.shares_backbone:
        with run.clock("update_critic"):
            stats |= update_value_head(batch, run.actor, config, step)
    if config.wants_discriminator:
        stats |= pair_metrics(groups, run.tokenizer.eos_token_id) | teacher_metrics(groups)
        stats["training/gad_stage"] = Mean(float(stage))
    return merge_stats([stats, batch_metrics(batch)])


def _critic_part(stage: Stage, config: Config) -> Callable[[GroupBatch, Critic, Config, int], dict[str, Stat]]:
    """What the critic does with a step's batch: a frozen discriminator is measured and learns nothing."""
    if not config.wants_discriminator:
        return update_critic
    if config.critic.discriminator.freeze_after_warmup and stage is Stage.ADVERSARIAL:
        return lambda batch, critic, config, _: pair_figures(batch.groups, critic, config)
    return update_discriminator


def prepare(run: Run, batch: GroupBatch) -> dict[str, Stat]:
    """What the updates of a step need, all of it from before them: log-probabilities, values, advantages."""
    config, algorithm = run.config, run.config.algorithm
    stats: dict[str, Stat] = {}
    needed = algorithm.use_kl_in_reward or algorithm.rollout_correction.active or config.shares_backbone
    if needed or several_updates(config, batch):
        with run.clock("old_log_prob"):
            stats |= add_old_log_probs(run, batch)
    if run.reference is not None:
        with run.clock("ref"):
            add_reference(batch, run.reference, config)
    if run.critic is not None and config.uses_value_critic:
        with run.clock("values"):
            add_values(batch, run.critic, config)
    with run.clock("adv"):
        stats |= add_rewards(batch, run.kl_controller, config)
        add_advantages(batch, config)
        stats |= correct_rollout(batch, config)
    return stats


def several_updates(config: Config, batch: GroupBatch) -> bool:
    """Whether the policy moves within a step, so that its old log-probabilities have to be kept."""
    actor = config.actor_rollout_ref.actor
    return actor.ppo_epochs > 1 or (actor.ppo_mini_batch_size or 0) < len(batch.groups)


def finish_step(run: Run, step: int, groups: list[Group], metrics: dict[str, float]) -> None:
    """Validates, logs and saves, where it is time to."""
    trainer = run.config.trainer
    run.step = step
    last = step == run.total_steps
    if last or (trainer.test_freq > 0 and step % trainer.test_freq == 0):
        metrics |= validate(run)
    timing = run.clock.pop()
    tokens = sum(group.num_tokens for group in groups)
    metrics |= timing | throughput_metrics(tokens, timing["timing_s/step"])
    metrics |= {"training/global_step": float(step), "training/epoch": float(run.sampler.epoch)}
    if any(metrics.get(f"{name}/skipped_steps") for name in ("actor", "critic")):
        run.tell_once(
            f"a gradient was NaN or infinite in step {step}: its optimizer step was left out (further ones are counted "
            "in actor/skipped_steps and critic/skipped_steps)",
            "skipped",
        )
    run.samples.write(groups[:1], step, "train")
    run.tracker.log(metrics, step)
    if last or (trainer.save_freq > 0 and step % trainer.save_freq == 0):
        run.save()


def finish_run(run: Run) -> None:
    """The model for use elsewhere, and the report."""
    if run.config.trainer.save_hf:
        run.actor.export(run.tokenizer, run.folder / "huggingface")
    build_report(run.folder)


def training_sampling(config: Config) -> SamplingParams:
    """How training responses are drawn."""
    rollout = config.actor_rollout_ref.rollout
    return SamplingParams(
        max_tokens=config.data.max_response_length,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k or -1,
        min_p=rollout.min_p,
        stop=tuple(rollout.stop),
        ignore_eos=rollout.ignore_eos,
    )
