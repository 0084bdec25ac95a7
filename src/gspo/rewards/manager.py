"""Scores the responses of groups: chooses the functions, runs them concurrently and reports what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from gspo.algorithms.stats import Stat
from gspo.config.schema_data import CustomRewardConfig, RewardConfig
from gspo.groups import Group, Outcome, Prompt, Response
from gspo.rewards.base import RewardError, Scorer
from gspo.rewards.builtin import BUILTINS, cannot_read_truth, function_for, is_known_source, make_scorer, says_correct
from gspo.rewards.combine import Part, combine, reward_stats
from gspo.rewards.custom import CustomScorer, load_function
from gspo.rewards.functions import named_functions, registered
from gspo.rewards.seen import KeptTokens
from gspo.rewards.workers import WorkerPool

__all__ = ["RewardManager"]


class RewardManager:
    """Scores responses by the configured functions, or by the one that a row's data source is known to need.

    Attributes:
        first_error: the first error of any response since the manager was made, with its place; None where none was.
    """

    def __init__(
        self,
        config: RewardConfig,
        custom: CustomRewardConfig,
        *,
        max_response_length: int | None = None,
        source_optional: bool = False,
        functions: Any = None,
        tokenizer: Any = None,
    ) -> None:
        """Sets the functions up; no process starts before the first response.

        Where the reward is a discriminator's (`source_optional`), a row that no function judges is abstained from.

        Args:
            config: the `reward` section.
            custom: the `custom_reward_function` section.
            max_response_length: `data.max_response_length`, for the overlong buffer.
            source_optional: abstain from a row without a ground truth, or whose data source no function is known for;
                else that is an error.
            functions: reward functions as objects, added to those that `config` names (see `named_functions`).
            tokenizer: the policy's, which spells the special tokens that `reward.keep_special_tokens` names.

        Raises:
            RewardError: a function or one of its settings cannot be used.
        """
        self.first_error: str | None = None
        self._raise = config.on_error == "raise"
        self._pool = WorkerPool(config.num_workers, config.timeout)
        self._custom = _make_custom(config, custom)
        self._timeout = config.timeout
        self._callers: list[CustomScorer] = [] if self._custom is None else [self._custom]
        self._given = named_functions(functions) if functions is not None else {}
        self._configured = self._configured_parts(config)
        self._penalty = self._penalty_part(config, max_response_length)
        self._defaults: dict[str, Part] = {}
        self._source_optional = source_optional
        self._keep = config.keep_special_tokens
        self._kept: KeptTokens | None = None
        if tokenizer is not None:
            self.spells_with(tokenizer)

    def spells_with(self, tokenizer: Any) -> None:
        """Takes the tokenizer of the responses that follow, where `reward.keep_special_tokens` needs it.

        Raises:
            RewardError: a name in that key is not a special token of the tokenizer.
        """
        self._kept = KeptTokens(self._keep, tokenizer) if self._keep else None

    @property
    def configured(self) -> bool:
        """Whether a function or a penalty is asked for, whatever the rows' data source."""
        return bool(self._configured or self._penalty)

    def score(self, groups: Sequence[Group], *, by_source: bool = True) -> dict[str, Stat]:
        """Sets `outcome` of every response and returns the figures of the batch.

        Without `by_source` only what the configuration asks for judges; then it must be `configured`.

        The figures: `reward/<function>/mean` of each function, before its weight; `reward/<extra>` of each extra;
        `reward/abstained` and `reward/errors` as fractions of the responses.

        Raises:
            RewardError: no function is known for a row, every response failed, or one did and `reward.on_error` is
                `raise`.
        """
        places = [
            (group.prompt, number, response) for group in groups for number, response in enumerate(group.responses)
        ]
        parts = [self._parts(prompt, by_source) for prompt, _, _ in places]
        pending = [
            [part.scorer.submit(prompt, seen) for part in row]
            for row, (prompt, _, response) in zip(parts, places, strict=True)
            for seen in [response if self._kept is None else self._kept(response)]
        ]
        judged = [
            [(part, future.result()) for part, future in zip(row, futures, strict=True)]
            for row, futures in zip(parts, pending, strict=True)
        ]
        for (_, _, response), outcomes in zip(places, judged, strict=True):
            response.outcome = combine(outcomes) if outcomes else Outcome(abstained="no reward function judges its row")
        self._report_errors(places)
        return reward_stats([response.outcome for _, _, response in places], judged)

    def close(self) -> None:
        """Ends the processes and threads that score."""
        self._pool.close()
        for caller in self._callers:
            caller.close()

    def __enter__(self) -> RewardManager:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _parts(self, prompt: Prompt, by_source: bool = True) -> list[Part]:
        parts = self._configured
        if not parts and by_source:
            if self._source_optional and not (prompt.ground_truth is not None and is_known_source(prompt.data_source)):
                return []
            parts = [self._default(prompt.data_source)]
        return [*parts, self._penalty] if self._penalty else parts

    def _default(self, data_source: str) -> Part:
        name = function_for(data_source)
        if name not in self._defaults:
            self._defaults[name] = Part(name, 1.0, make_scorer(name, {}, self._pool))
        return self._defaults[name]

    @property
    def notices(self) -> list[str]:
        """What is to be said once, at the start: what functions that a program hands over can do to it."""
        if not self._given:
            return []
        return [
            f"rewards: {', '.join(self._given)} run in this process; a call that takes longer than "
            f"reward.timeout={self._timeout:g} s is an error of its response, and goes on in the background since "
            "Python cannot stop it"
        ]

    def says_correct(self, prompt: Prompt) -> bool:
        """Whether a built-in function of this row says what is correct; of other functions it is not known."""
        return self._has_function(prompt) and any(says_correct(part.scorer) for part in self._parts(prompt))

    def figures(self, prompts: Iterable[Prompt], *, by_source: bool = True) -> set[str]:
        """The names of the figures that `score` gives of these rows, as far as they are known before it is called."""
        names = {"reward/abstained", "reward/errors"}
        for prompt in prompts:
            if by_source and not self._has_function(prompt):
                continue
            for part in self._parts(prompt, by_source):
                names.add(f"reward/{part.name}/mean")
                if says_correct(part.scorer):
                    names.add("reward/acc")
        return names

    def _has_function(self, prompt: Prompt) -> bool:
        return bool(self._configured) or is_known_source(prompt.data_source)

    def unreadable(self, prompts: Iterable[Prompt]) -> list[str]:
        """What is to be said once of rows whose ground truth cannot be read; nothing where there are none.

        Rows that no function is known for are not looked at: they are an error where they are scored.
        """
        rows = [prompt for prompt in prompts if self._cannot_read(prompt)]
        if not rows:
            return []
        return [
            f"rewards: {len(rows)} row{'s have' if len(rows) > 1 else ' has'} a ground truth that cannot be read, the "
            f"first {rows[0].uid} ({str(rows[0].ground_truth)[:80]!r}): no response to such a row is scored; "
            "correct or remove it"
        ]

    def _cannot_read(self, prompt: Prompt) -> bool:
        return self._has_function(prompt) and any(
            cannot_read_truth(part.scorer, prompt) for part in self._parts(prompt)
        )

    def _calling(self, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> CustomScorer:
        caller = CustomScorer(function, kwargs, self._timeout)
        self._callers.append(caller)
        return caller

    def _configured_parts(self, config: RewardConfig) -> list[Part]:
        given = [Part(name, weight, self._calling(function, {})) for name, (weight, function) in self._given.items()]
        return [*self._named_parts(config), *given]

    def _named_parts(self, config: RewardConfig) -> list[Part]:
        if not config.functions:
            return [Part("custom", 1.0, self._custom)] if self._custom is not None else []
        parts, seen = [], Counter[str]()
        for function in config.functions:
            seen[function.name] += 1
            name = function.name if seen[function.name] == 1 else f"{function.name}_{seen[function.name]}"
            scorer: Scorer
            if function.name in BUILTINS:
                scorer = make_scorer(function.name, function.kwargs, self._pool)
            elif function.name != "custom":
                scorer = self._calling(registered(function.name, function.kwargs), function.kwargs)
            elif self._custom is None:
                raise RewardError("reward.functions names `custom`: set custom_reward_function.path to its file")
            elif function.kwargs:
                raise RewardError("the reward `custom` takes its settings from custom_reward_function.reward_kwargs")
            else:
                scorer = self._custom
            parts.append(Part(name, function.weight, scorer))
        if self._custom is not None and "custom" not in seen:
            raise RewardError(
                "custom_reward_function.path is set, but reward.functions does not name `custom`: "
                "add {name: custom} to it, or unset the path"
            )
        return parts

    def _penalty_part(self, config: RewardConfig, max_response_length: int | None) -> Part | None:
        buffer = config.overlong_buffer
        if not buffer.enable:
            return None
        if max_response_length is None:
            raise RewardError("reward.overlong_buffer needs data.max_response_length, the length that it ends at")
        kwargs = {"max_length": max_response_length, "buffer": buffer.len, "factor": buffer.penalty_factor}
        return Part("overlong_buffer", 1.0, make_scorer("overlong", kwargs, self._pool))

    def _report_errors(self, places: Sequence[tuple[Prompt, int, Response]]) -> None:
        failed = [place for place in places if place[2].outcome is not None and place[2].outcome.error is not None]
        if not failed:
            return
        prompt, number, response = failed[0]
        assert response.outcome is not None
        where = f"{prompt.uid}, response {number}"
        self.first_error = self.first_error or f"{where}: {response.outcome.error}"
        if self._raise:
            raise RewardError(
                f"the reward failed for {where}: {response.outcome.error}. The response: {response.text!r}. "
                "Correct the function or the row, or set reward.on_error=exclude to leave such responses out"
            )
        if len(failed) == len(places):
            raise RewardError(
                f"the reward failed for all {len(places)} responses; the first, {where}: {response.outcome.error}. "
                "Correct the function or the rows"
            )


def _make_custom(config: RewardConfig, custom: CustomRewardConfig) -> CustomScorer | None:
    if custom.path is None:
        return None
    function = load_function(custom.path, custom.name, custom.reward_kwargs)
    return CustomScorer(function, custom.reward_kwargs, config.timeout)
