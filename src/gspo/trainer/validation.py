"""How a run does on held-out prompts: accuracy, and the discriminator where there is one."""

from __future__ import annotations

from gspo.algorithms.stats import Mean, to_floats
from gspo.config import Config
from gspo.evaluation.accuracy import answer_groups, summarize, validation_metrics
from gspo.groups import Group
from gspo.rollout import SamplingParams
from gspo.trainer.answers import add_teachers
from gspo.trainer.discriminator import pair_figures, teacher_control
from gspo.trainer.pairs import overlap_metrics, pair_metrics, teacher_metrics
from gspo.trainer.run import Run

__all__ = ["validate"]


def validate(run: Run) -> dict[str, float]:
    """Accuracy on the held-out prompts, and how the discriminator does on them; nothing without any."""
    if run.val_data is None:
        return {}
    config = run.config
    kwargs = config.actor_rollout_ref.rollout.val_kwargs
    with run.clock("testing"):
        groups = answer_groups(
            run.engine,
            run.rewards,
            run.val_data.prompts,
            validation_sampling(config),
            n=kwargs.n,
            batch_size=config.data.val_batch_size,
        )
        pairs = held_out(run, groups) if config.wants_discriminator else {}
    if config.trainer.log_val_generations:
        run.samples.write(groups[: config.trainer.log_val_generations], run.step, "val")
    return validation_metrics(summarize(groups)) | pairs


def held_out(run: Run, groups: list[Group]) -> dict[str, float]:
    """The discriminator's figures on the pairs of held-out prompts that have a teacher's text; it never learns them."""
    add_teachers(groups, run.tokenizer, run.config.data.max_response_length)
    taught = [group for group in groups if group.teacher is not None]
    if not taught:
        run.tell_once(
            f"data.val_files have no text in {run.config.data.teacher_key}: the discriminator is not measured on "
            "held-out pairs",
            "held-out pairs",
        )
        return {}
    assert run.critic is not None
    figures = pair_figures(taught, run.critic, run.config)
    stats = {name.replace("critic/", "val-aux/gad/"): stat for name, stat in figures.items()}
    stats |= pair_metrics(taught, run.tokenizer.eos_token_id, prefix="val-aux/gad")
    stats |= overlap_metrics(taught, prefix="val-aux/gad")
    stats |= teacher_control(taught, run.critic, run.config, prefix="val-aux/gad")
    lengths = [float(len(response)) for group in taught for response in group.responses]
    stats["val-aux/gad/response_length"] = Mean(sum(lengths), float(len(lengths)))
    stats["val-aux/gad/teacher_length"] = teacher_metrics(taught)["teacher_length/mean"]
    return to_floats(stats)


def validation_sampling(config: Config) -> SamplingParams:
    """How validation responses are drawn."""
    rollout = config.actor_rollout_ref.rollout
    kwargs = rollout.val_kwargs
    return SamplingParams(
        max_tokens=config.data.max_response_length,
        temperature=kwargs.temperature if kwargs.do_sample else 0.0,
        top_p=kwargs.top_p,
        top_k=kwargs.top_k or -1,
        stop=tuple(rollout.stop),
        ignore_eos=rollout.ignore_eos,
    )
