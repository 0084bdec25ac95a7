"""The training loop: sample, score, compare within groups, update, look."""

from __future__ import annotations

from collections.abc import Mapping

from gspo.algorithms.stats import merge_stats, to_floats
from gspo.checkpoint import writing
from gspo.groups import Group, GroupBatch
from gspo.observe import batch_metrics, build_report, throughput_metrics
from gspo.trainer.advantages import advantages_of, with_rewards
from gspo.trainer.folder import nothing_to_train
from gspo.trainer.interruption import interruptible
from gspo.trainer.run import Run, Taken, TrainRun
from gspo.trainer.trained import Trained
from gspo.world import count, is_main

__all__ = ["finish_run", "next_step", "train_run", "train_step"]


def train_step(run: TrainRun, step: int) -> Taken:
    """One step: from the next prompts to new weights."""
    phase = run.schedule.at(step)
    groups, sampled, num_tokens = phase.collect(step)
    trained = with_rewards(groups, run.compares_groups, run.world) if phase.needs_rewards else groups
    batch = GroupBatch.from_groups(trained, run.actor.policy.device, scored=phase.needs_rewards)
    stats = phase.prepare(batch, step)
    stats |= run.critic.update(batch, groups, step)
    stats |= phase.update_policy(batch, step, "actor/entropy" not in stats)
    stats = {**merge_stats([stats, batch_metrics(batch)]), **sampled}
    run.reference.sync(step)
    run.engine.load_weights(run.actor.policy, version=step)
    return Taken(groups, stats, num_tokens, advantages_of(groups, batch))


def train_run(run: Run) -> None:
    """The loop over a run that is set up, whatever its kind.

    Ctrl-C, SIGTERM and a closed terminal end it after the step, with a checkpoint. However it ends, its last line says
    what was wrong with it, where something was.

    Raises:
        Stopped: a KeyboardInterrupt: it was ended in this way.
        ValueError: every optimizer step was left out, as no gradient was finite.
    """
    with interruptible(run):
        try:
            _all_steps(run)
        finally:
            if line := run.watch.summary():
                run.console.notice(line)


def _all_steps(run: Run) -> None:
    trainer = run.config.trainer
    if run.only_validates or (trainer.val_before_train and run.step == 0):
        if metrics := run.validate(run.step):
            metrics |= run.clock.pop()
            run.tracker.log(metrics, run.step)
            run.console.passed(metrics, run.step)
        if run.only_validates:
            return
    if run.step >= run.total_steps:
        run.console.notice(nothing_to_train(run.step, run.total_steps))
    ends = run.world.any(run.stop_asked)
    while run.step < run.total_steps and not ends:
        _, ends = next_step(run)
    if run.step < run.total_steps and run.world.any(run.stop_asked):
        if is_main(run.world) and run.step:
            build_report(run.folder)  # the model is of use when the run is done; `gspo export` makes it before
        return
    finish_run(run)
    for part in run.parts.values():
        if isinstance(part, Trained):
            part.check_moved()


def next_step(run: Run) -> tuple[dict[str, float], bool]:
    """The next step of a run, finished: its metrics, and whether a callback or a signal has ended the run."""
    step = run.step + 1
    if line := run.opens(step):
        run.console.notice(line)
    run.cores.pop()  # what others did before the step is not its matter
    with run.clock("step"):
        taken = run.take_step(step)
    return _finish_step(run, step, taken, run.cores.pop())


def _finish_step(run: Run, step: int, taken: Taken, cores: Mapping[str, float]) -> tuple[dict[str, float], bool]:
    """Validates, logs and saves after a step, where it is time to; `cores` are its figures of other processes.

    Returns:
        the metrics that were logged, and whether a callback or a signal has ended the run.
    """
    trainer = run.config.trainer
    run.step = step
    last = step == run.total_steps
    metrics = to_floats(run.world.merge(taken.stats))
    if last or (trainer.test_freq > 0 and step % trainer.test_freq == 0):
        metrics |= run.validate(step)
    timing = run.clock.pop()
    metrics |= timing | throughput_metrics(count(run.world, taken.num_tokens), timing["timing_s/step"], run.world.size)
    metrics |= cores
    metrics |= {"training/global_step": float(step), "training/epoch": float(run.sampler.epoch)}
    first = taken.groups[:1]
    of_first = taken.advantages and taken.advantages[: sum(len(group.responses) for group in first)]
    run.samples.write(first, step, "train", of_first)
    run.tracker.log(metrics, step)
    run.console.passed(metrics, step)
    for line in run.watch.see(step, metrics):
        run.console.notice(line)
    ends = _ended(run, step, metrics, taken.groups)
    if last or ends or (trainer.save_freq > 0 and step % trainer.save_freq == 0):
        run.save()
    elif run.is_due():
        run.save(rolling=True)
    return metrics, ends


def _ended(run: Run, step: int, metrics: Mapping[str, float], groups: list[Group]) -> bool:
    """Whether a callback or a signal, on whatever rank, ends the run after this step; each callback is called."""
    answers = [bool(callback(step, metrics, groups)) for callback in run.callbacks]
    return run.world.any(any(answers) or run.stop_asked)


def finish_run(run: Run) -> None:
    """The model for use elsewhere, and the report."""
    if not is_main(run.world):
        return
    trainer = run.config.trainer
    save, dtype = trainer.save_hf, trainer.save_hf_dtype
    if save:
        with run.clock("export"):
            run.actor.export(run.tokenizer, run.folder / "huggingface", dtype)
    with run.clock("report"), writing(run.folder / "report.html"):
        build_report(run.folder)
