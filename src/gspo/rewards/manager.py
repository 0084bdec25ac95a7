"""Scores the responses of groups: chooses the functions, runs them concurrently and reports what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gspo.algorithms.stats import Stat
from gspo.config.schema_data import CustomRewardConfig, RewardConfig
from gspo.groups import Group, Outcome, Prompt, Response
from gspo.rewards.base import RewardError, Scorer
from gspo.rewards.builtin import BUILTINS, cannot_read_truth, function_for, is_known_source, make_scorer, says_correct
from gspo.rewards.combine import Part, combine, reward_stats
from gspo.rewards.custom import MAX_CALLS, FileScorer, InlineScorer
from gspo.rewards.functions import named_functions, registered
from gspo.rewards.loading import load_function
from gspo.rewards.seen import KeptTokens
from gspo.rewards.workers import WorkerPool
from gspo.signals import result_of

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
        """Sets the functions up. The user's file runs in a first process; the others start with the first response.

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
        self._pool = WorkerPool(config.num_workers, config.timeout, max_memory_gb=config.max_memory_gb)
        self._timeout = config.timeout
        self._inline: dict[str, InlineScorer] = {}
        self._file: FileScorer | None = None
        self._given = named_functions(functions) if functions is not None else {}
        try:
            self._custom = self._own_function(config, custom)
            self._configured = self._configured_parts(config)
            self._penalty = self._penalty_part(config, max_response_length)
        except BaseException:
            self.close()
            raise
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
            [(part, result_of(future)) for part, future in zip(row, futures, strict=True)]
            for row, futures in zip(parts, pending, strict=True)
        ]
        for (_, _, response), outcomes in zip(places, judged, strict=True):
            response.outcome = combine(outcomes) if outcomes else Outcome(abstained="no reward function judges its row")
        self._report_errors(places)
        return reward_stats([response.outcome for _, _, response in places], judged)

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Holds that a function is known for every row, before the first response is sampled.

        Raises:
            RewardError: none is for a row's data source; names the row.
        """
        seen: set[str] = set()
        for prompt in prompts:
            if prompt.data_source not in seen:
                seen.add(prompt.data_source)
                try:
                    self._parts(prompt)
                except RewardError as error:
                    raise RewardError(f"{prompt.uid}: {error}") from error

    def close(self) -> None:
        """Ends the processes that score, at once. Calls in this process are not waited for."""
        self._pool.close()
        for scorer in (self._file, *self._inline.values()):
            if scorer is not None:
                scorer.close()

    def keep_output(self, folder: Path) -> None:
        """From now on what `custom_reward_function` prints goes to `reward_output.txt` of this folder."""
        if self._file is not None:
            self._file.keep_output(folder / "reward_output.txt")

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
        """What is to be said once, at the start: what functions that run in this process can do to it."""
        if not self._inline:
            return []
        return [
            f"rewards: {', '.join(self._inline)} run in this process; a call that takes longer than "
            f"reward.timeout={self._timeout:g} s is an error of its response, and goes on in the background since "
            "Python cannot stop it; one that never releases the interpreter's lock stops the run"
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
        first = f"{rows[0].uid} ({str(rows[0].ground_truth)[:80]!r})"
        return [
            f"rewards: {len(rows)} row{'s have' if len(rows) > 1 else ' has'} a ground truth that cannot be read, the "
            f"first {first}: no response to such a row is scored; correct or remove it"
        ]

    def _cannot_read(self, prompt: Prompt) -> bool:
        return self._has_function(prompt) and any(
            cannot_read_truth(part.scorer, prompt) for part in self._parts(prompt)
        )

    def _calling(self, name: str, function: Callable[..., Any], kwargs: Mapping[str, Any]) -> InlineScorer:
        self._inline[name] = InlineScorer(function, name, kwargs, self._timeout)
        return self._inline[name]

    def _own_function(self, config: RewardConfig, custom: CustomRewardConfig) -> Scorer | None:
        path, name, kwargs = custom.path, custom.name, custom.reward_kwargs
        if path is None:
            return None
        if custom.inline:
            return self._calling(name, load_function(path, name, kwargs, like_a_script=False), kwargs)
        pool = WorkerPool(
            config.num_workers, config.timeout, max_memory_gb=config.max_memory_gb, most=MAX_CALLS, quiet=False
        )
        self._file = FileScorer(path, name, kwargs, pool)
        return self._file

    def _configured_parts(self, config: RewardConfig) -> list[Part]:
        given = [
            Part(name, weight, self._calling(name, function, {})) for name, (weight, function) in self._given.items()
        ]
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
                scorer = self._calling(name, registered(function.name, function.kwargs), function.kwargs)
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
