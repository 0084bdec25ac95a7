"""The built-in reward functions by name, and the one that each known data source gets."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from gspo.config.secrets import masked
from gspo.groups import Outcome, Prompt, Response
from gspo.rewards.base import RewardError, Scorer, to_outcome
from gspo.rewards.format import THINK_ANSWER
from gspo.rewards.gsm8k import score_gsm8k
from gspo.rewards.length import overlong_penalty
from gspo.rewards.seen import opens_thoughts, with_opening
from gspo.rewards.truth import gsm8k_truth, math_truth
from gspo.rewards.workers import WorkerPool
from gspo.shell import gspo_command

__all__ = ["BUILTINS", "cannot_read_truth", "function_for", "make_scorer", "says_correct"]

# Data sources, matched in lower case from their start, and their functions. The names are those in use for verl.
_DEFAULTS = (
    (r"(openai/)?gsm8k", "gsm8k"),
    (r"reasoning_gym/", "gym"),
    (r"([\w.-]+/)?(math|aime|amc|minerva|olympiad|deepscaler|numina|hendrycks.*math)", "math"),
)


class _Unscorable(Exception):
    """Why a row cannot be given to a scorer."""


@dataclass(frozen=True)
class _Here:
    """Scores in this process, at once: for what cannot hang. `reads` gives what a ground truth says, None: nothing."""

    score: Callable[[Prompt, Response], Any]
    reads: Callable[[str], Any] | None = None

    def submit(self, prompt: Prompt, response: Response) -> Future[Outcome]:
        done: Future[Outcome] = Future()
        try:
            done.set_result(to_outcome(self.score(prompt, response)))
        except _Unscorable as error:
            done.set_result(Outcome(error=str(error)))
        return done


@dataclass(frozen=True)
class _InWorker:
    """Scores in a process that can be killed. `arguments` gives what the function is called with, besides the text.

    `text` gives the text, where it is not the response's own.
    """

    pool: WorkerPool
    function: str
    arguments: Callable[[Prompt], dict[str, Any]]
    reads: Callable[[str], Any] | None = None
    text: Callable[[Prompt, str], str] = lambda _, text: text

    def submit(self, prompt: Prompt, response: Response) -> Future[Outcome]:
        try:
            arguments = self.arguments(prompt)
        except _Unscorable as error:
            done: Future[Outcome] = Future()
            done.set_result(Outcome(error=str(error)))
            return done
        return self.pool.submit(self.function, solution_str=self.text(prompt, response.text), **arguments)


def _gsm8k(_: WorkerPool, *, strict: bool = False) -> Scorer:
    return _Here(
        lambda prompt, response: score_gsm8k(with_opening(prompt, response.text), _truth(prompt), strict), gsm8k_truth
    )


def _math(pool: WorkerPool) -> Scorer:
    return _InWorker(
        pool, "gspo.rewards.math:score_math", lambda prompt: {"ground_truth": _truth(prompt)}, math_truth, with_opening
    )


def _gym(pool: WorkerPool, *, exact: bool = False) -> Scorer:
    return _InWorker(pool, "gspo.rewards.gym:score_gym", lambda prompt: {**_gym_entry(prompt), "exact": exact})


def _format(pool: WorkerPool, *, pattern: str = THINK_ANSWER) -> Scorer:
    try:
        re.compile(pattern)
    except re.error as error:
        raise RewardError(f"the pattern {pattern!r} of the reward `format` cannot be compiled: {error}") from error
    return _InWorker(
        pool, "gspo.rewards.format:score_format", lambda prompt: {"pattern": pattern, "opened": opens_thoughts(prompt)}
    )


def _overlong(_: WorkerPool, *, max_length: int, buffer: int, factor: float = 1.0) -> Scorer:
    if not 0 < buffer <= max_length:
        raise RewardError(f"the reward `overlong` has buffer={buffer}: set it from 1 to max_length={max_length}")
    return _Here(lambda _, response: overlong_penalty(len(response), max_length, buffer, factor))


BUILTINS: Mapping[str, Callable[..., Scorer]] = {
    "gsm8k": _gsm8k,
    "math": _math,
    "gym": _gym,
    "format": _format,
    "overlong": _overlong,
}


def make_scorer(name: str, kwargs: Mapping[str, Any], pool: WorkerPool) -> Scorer:
    """The built-in reward `name` with its settings.

    Raises:
        RewardError: the name or a setting is unknown, or a setting is missing or wrong.
    """
    if name not in BUILTINS:
        raise RewardError(
            f"reward.functions: there is no reward function {name!r}; there are {', '.join(BUILTINS)} and custom"
        )
    try:
        inspect.signature(BUILTINS[name]).bind(pool, **kwargs)
    except TypeError as error:
        settings = list(inspect.signature(BUILTINS[name]).parameters)[1:]
        raise RewardError(
            f"the reward {name!r} cannot take kwargs={masked(kwargs)} ({error}); "
            f"its settings: {', '.join(settings) or 'none'}"
        ) from error
    return BUILTINS[name](pool, **kwargs)


def is_known_source(data_source: str) -> bool:
    """Whether a built-in function judges this data where none is configured."""
    return any(re.match(pattern, data_source.lower()) for pattern, _ in _DEFAULTS)


def function_for(data_source: str) -> str:
    """The name of the built-in function that judges this data where none is configured.

    Raises:
        RewardError: none does.
    """
    for pattern, name in _DEFAULTS:
        if re.match(pattern, data_source.lower()):
            return name
    raise RewardError(
        f"no built-in reward is known for data_source={data_source!r}: name one, as in "
        f"reward.functions=[{{name: math}}] (there are {', '.join(BUILTINS)}), "
        "or set custom_reward_function.path to a file with your own"
    )


def says_correct(scorer: Scorer) -> bool:
    """Whether a built-in scorer says `acc` of each response that it judges."""
    return (isinstance(scorer, _Here) and scorer.reads is not None) or (
        isinstance(scorer, _InWorker) and not scorer.function.endswith(":score_format")
    )


def cannot_read_truth(scorer: Scorer, prompt: Prompt) -> bool:
    """Whether a scorer would abstain from every response to this row, since it cannot read the ground truth."""
    if not isinstance(scorer, (_Here, _InWorker)) or scorer.reads is None:
        return False
    try:
        return scorer.reads(_truth(prompt)) is None
    except _Unscorable:
        return False  # an error of the row, which its first response reports


def _truth(prompt: Prompt) -> str:
    truth = prompt.ground_truth
    if isinstance(truth, str) or (isinstance(truth, (int, float)) and not math.isnan(truth)):
        return str(truth)
    raise _Unscorable(
        f"row {prompt.uid} has reward_model.ground_truth={truth!r}, not a text or a number: correct or remove the row"
    )


def _gym_entry(prompt: Prompt) -> dict[str, Any]:
    keys = ("task", "task_config", "entry")
    if not all(isinstance(prompt.extra_info.get(key), str) for key in keys):
        raise _Unscorable(
            f"row {prompt.uid} has no entry of reasoning-gym ({', '.join(keys)}) in extra_info: "
            f"write the data with `{gspo_command('data', 'reasoning-gym')}`"
        )
    return {key: prompt.extra_info[key] for key in keys}
