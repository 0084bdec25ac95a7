"""The Python door: train, evaluate and look at runs from a program or a notebook.

    run = gspo.train(model="path/to/model", train_data=rows, rewards=my_reward, policy_loss="gspo", n=8)

Whatever the command line names by a path may be an object here. A run is a folder either way: it resumes, and
`gspo report`, `gspo eval` and `gspo compare` read it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from gspo.config import Config, load_config, require_honoured, require_keys
from gspo.config.paths import expanded
from gspo.data import load_dataset
from gspo.evaluation.accuracy import SourceResult, answer_groups, summarize
from gspo.finished import FinishedRun, load_run
from gspo.groups import Group
from gspo.models import load_actor_tokenizer, load_policy
from gspo.rewards import RewardManager
from gspo.rollout import EngineContext, RolloutEngine, SamplingParams, check_engine, make_engine
from gspo.trainer import Given, TrainRun, opened, train_run
from gspo.trainer.assembly import answer_sampling
from gspo.trainer.exporting import export_checkpoint
from gspo.trainer.loop import finish_run, next_step
from gspo.trainer.opening import choose_device, longest_sequence
from gspo.trainer.run import Callback
from gspo.trainer.sft import sft as supervise

__all__ = ["Trainer", "configure", "evaluate", "export", "sft", "train"]


def configure(config: Config | Mapping[str, Any] | str | Path | None = None, **settings: Any) -> Config:
    """The configuration that `train` and `Trainer` use.

    Args:
        config: a resolved configuration (what it has resolved, such as a loss's clip range, stays), a mapping of keys,
            a YAML file, or the name of a preset.
        settings: keys over it: with dots, in a mapping (`**{"trainer.seed": 2}`), or by their last name (`n=8`).

    Raises:
        ConfigError: a key or value cannot be used; names it.
    """
    if isinstance(config, Config):
        return load_config(settings=settings, base=config) if settings else config
    if isinstance(config, Mapping):
        return load_config(settings={**config, **settings})
    if config is None:
        return load_config(settings=settings)
    path = expanded(config, "config")
    if path.suffix in (".yaml", ".yml"):
        return load_config(str(path.parent), path.name, settings=settings)
    return load_config(None, str(config), settings=settings)


def train(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    critic_model: Any = None,
    train_data: Any = None,
    val_data: Any = None,
    rewards: Any = None,
    engine: RolloutEngine | None = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> FinishedRun:
    """Trains a model with reinforcement learning and returns the finished run.

    The same call goes on where it was stopped, from the newest checkpoint in the run's folder. Ctrl-C lets the step
    finish and saves a checkpoint first; a second one stops at once.

    Args:
        config: a resolved configuration, a mapping of keys, a YAML file, or the name of a preset.
        model: a folder, a hub name, or a transformers model, which is trained in place.
        tokenizer: a folder, a hub name, or a transformers tokenizer; None: the model's own.
        critic_model: folder or hub name of the critic's or discriminator's model.
        train_data: files, a list of dicts, a `datasets.Dataset`, a pandas DataFrame or a pyarrow Table, with the
            columns of docs/data.md.
        val_data: the same, for validation.
        rewards: a function, several, or a mapping of names to functions or (weight, function); each is called with
            those of `solution_str`, `ground_truth`, `data_source`, `extra_info` and `prompt_str` that it takes.
        engine: samples the responses; None: the one that `actor_rollout_ref.rollout.name` names.
        callbacks: each is called after a step with (step, metrics, groups); a true answer ends the run.
        settings: keys of the configuration, as in `configure`.

    Raises:
        ValueError: something cannot be used; says what and how to fix it.
    """
    with Trainer(
        config,
        model=model,
        tokenizer=tokenizer,
        critic_model=critic_model,
        train_data=train_data,
        val_data=val_data,
        rewards=rewards,
        engine=engine,
        callbacks=callbacks,
        **settings,
    ) as trainer:
        trainer.train()
        return load_run(trainer.folder)


def sft(
    config: Config | Mapping[str, Any] | str | Path | None = None,
    *,
    model: Any = None,
    tokenizer: Any = None,
    train_data: Any = None,
    val_data: Any = None,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> FinishedRun:
    """Fine-tunes a model on given answers (`data.answer_key` of each row) and returns the finished run.

    Args are those of `train`; the prompt is not learned.

    Raises:
        ValueError: something cannot be used; says what and how to fix it.
    """
    resolved, given = _split(config, settings, model, tokenizer)
    given = replace(given, train_data=train_data, val_data=val_data, callbacks=tuple(callbacks))
    return load_run(supervise(resolved, given))


def export(
    source: FinishedRun | Path | str, *, step: int | None = None, out: Path | str | None = None, **settings: Any
) -> Path:
    """Writes the model of a checkpoint as a Hugging Face folder, with the bytes of the run's own export.

    Args:
        source: a run or its folder, whose newest checkpoint is taken, or the folder of a checkpoint.
        step: the step of the checkpoint, where `source` is a run.
        out: where to; None: RUN/huggingface for the newest checkpoint of a run, RUN/huggingface-step-N for another.
        settings: `path=FOLDER` where the model that the run began with has moved; keys of `actor_rollout_ref.model`.

    Returns:
        the folder.

    Raises:
        ValueError: there is no such checkpoint, or it cannot be written; says what to do.
    """
    path = source.folder if isinstance(source, FinishedRun) else source
    return export_checkpoint(path, configure(**settings), step=step, out=out)


class Trainer:
    """A run that a program steps through itself; a context manager with the arguments of `train`.

        with gspo.Trainer(model=..., train_data=..., rewards=...) as trainer:
            for _ in range(10):
                metrics = trainer.step()
            trainer.save()

    Attributes:
        run: the run, for those who look further: its actor, engine and data.
    """

    def __init__(
        self,
        config: Config | Mapping[str, Any] | str | Path | None = None,
        *,
        model: Any = None,
        tokenizer: Any = None,
        critic_model: Any = None,
        train_data: Any = None,
        val_data: Any = None,
        rewards: Any = None,
        engine: RolloutEngine | None = None,
        callbacks: Sequence[Callback] = (),
        **settings: Any,
    ) -> None:
        """Sets the run up: everything is loaded and checked, nothing is trained yet.

        Raises:
            ValueError: something cannot be used; says what and how to fix it.
        """
        resolved, given = _split(config, settings, model, tokenizer, critic_model)
        given = replace(
            given,
            train_data=train_data,
            val_data=val_data,
            rewards=rewards,
            engine=engine,
            callbacks=tuple(callbacks),
        )
        self._stack = ExitStack()
        self.run: TrainRun = self._stack.enter_context(opened(resolved, given))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.run.folder

    @property
    def is_done(self) -> bool:
        """Whether all of its steps are done."""
        return self.run.step >= self.run.total_steps

    def train(self) -> None:
        """All steps that are left, then the export and the report. Ctrl-C saves a checkpoint after the step."""
        train_run(self.run)

    def step(self) -> dict[str, float]:
        """One training step, logged, validated and saved as the configuration says; its metrics.

        Raises:
            ValueError: the run is done.
        """
        if self.is_done:
            raise ValueError(
                f"all {self.run.total_steps} steps are done: raise trainer.total_training_steps or total_epochs"
            )
        return next_step(self.run)[0]

    def validate(self) -> dict[str, float]:
        """Measures the policy on the held-out prompts; empty without any. Nothing is logged."""
        metrics = self.run.validate(self.run.step)
        self.run.clock.pop()
        return metrics

    def generate(self, prompts: Sequence[Any], n: int = 1, **sampling: Any) -> list[Group]:
        """Samples responses to prompts of the data with the current policy.

        Args:
            prompts: of `run.train_data` or `run.val_data`.
            n: responses for each.
            sampling: of `SamplingParams`; `max_tokens` is data.max_response_length where it is not given.
        """
        sampling.setdefault("max_tokens", self.run.config.data.max_response_length)
        return self.run.engine.generate(prompts, SamplingParams(**sampling), n=n, step=self.run.step)

    def save(self) -> Path:
        """Writes a checkpoint of the last finished step and returns its folder."""
        return self.run.save()

    def export(self) -> Path:
        """Writes the model as a Hugging Face folder, and the report; returns the model's folder."""
        finish_run(self.run)
        return self.folder / "huggingface"

    def close(self) -> None:
        """Ends the run: its files, its reward processes and its engine are closed."""
        self._stack.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def _split(
    config: Config | Mapping[str, Any] | str | Path | None,
    settings: Mapping[str, Any],
    model: Any,
    tokenizer: Any,
    critic_model: Any = None,
) -> tuple[Config, Given]:
    """The configuration, which names those of the models that are paths, and the others as objects."""
    models = {
        "actor_rollout_ref.model.path": model,
        "actor_rollout_ref.model.tokenizer_path": tokenizer,
        "critic.model.path": critic_model,
    }
    paths = {key: str(value) for key, value in models.items() if isinstance(value, (str, Path))}
    model, tokenizer, critic_model = (None if key in paths else value for key, value in models.items())
    resolved = configure(config, **paths, **settings)
    if model is not None and tokenizer is None and resolved.policy_model.tokenizer_path:
        tokenizer = load_actor_tokenizer(resolved.policy_model)  # it is written next to the model
    return resolved, Given(model, tokenizer, critic_model)


def evaluate(
    model: Any,
    data: Any,
    *,
    rewards: Any = None,
    tokenizer: Any = None,
    n: int = 1,
    temperature: float | None = None,
    engine: RolloutEngine | None = None,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    **settings: Any,
) -> list[SourceResult]:
    """How often a model is right on held-out prompts: one result for each data source, with its interval.

    Args:
        model: a folder, a hub name, or a transformers model.
        data: files or rows, as for `train`.
        rewards: functions that judge; None: as the rows' data source or the configuration says.
        tokenizer: a folder, a hub name, or a transformers tokenizer; None: the model's own.
        n: responses for each prompt; pass@k and maj@k need several.
        temperature: of sampling; None: greedy for one response, and 1 for several.
        engine: samples the responses; None: the local engine.
        config, settings: as for `train`.

    Raises:
        ValueError: something cannot be used; says what and how to fix it.
    """
    resolved, given = _split(config, settings, model, tokenizer)
    require_keys(resolved)
    require_honoured(resolved)
    section, rollout, data_section = resolved.policy_model, resolved.rollout, resolved.data
    reader = given.tokenizer or load_actor_tokenizer(section)
    prompts = load_dataset(data, data_section, reader, label="data")
    longest, device = longest_sequence(data_section, prompts), choose_device(resolved.trainer)
    policy = load_policy(section, reader, device, longest, train=False, model=given.model)
    heat = float(n > 1) if temperature is None else temperature
    sampling = answer_sampling(rollout, data_section.max_response_length, heat)
    with ExitStack() as stack:
        if engine is None:
            context = EngineContext(policy, reader, resolved.trainer.seed, rollout.max_num_seqs, longest)
            engine = make_engine(rollout.name, context)
            stack.callback(engine.close)
        check_engine(engine)
        judge = stack.enter_context(
            RewardManager(
                resolved.reward,
                resolved.custom_reward_function,
                max_response_length=sampling.max_tokens,
                functions=rewards,
                tokenizer=reader,
            )
        )
        judge.check(prompts)
        batch_size = data_section.val_batch_size
        return summarize(answer_groups(engine, judge, prompts.prompts, sampling, n=n, batch_size=batch_size))
