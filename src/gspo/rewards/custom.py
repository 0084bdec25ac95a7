"""A user's own reward function: in processes that can be killed, or in this one where it needs to be."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from copy import deepcopy
from pathlib import Path
from typing import Any

from gspo.groups import Outcome, Prompt, Response
from gspo.rewards.errors import RewardError, describe
from gspo.rewards.inline import InlineCalls
from gspo.rewards.loading import GIVEN, parameters_of
from gspo.rewards.process import Target
from gspo.rewards.workers import WorkerPool

__all__ = ["MAX_CALLS", "FileScorer", "InlineScorer"]

# Functions that wait (for a judge model, a service) run so many at a time; those that compute, `reward.num_workers`.
MAX_CALLS = 64


class FileScorer:
    """Calls a function of a Python file with those of verl's arguments that it takes, in processes of its own.

    Beyond verl's four there is `prompt_str`, the prompt's text. The function gets copies of all of them.
    """

    def __init__(self, path: str, name: str, kwargs: Mapping[str, Any], pool: WorkerPool) -> None:
        """Loads the function in a first process.

        Args:
            path: the Python file.
            name: of the function.
            kwargs: its own settings.
            pool: of which this function is the only one. It is closed with this object.

        Raises:
            RewardError: the file does not run, or has no such function.
        """
        self._pool, self._kwargs = pool, dict(kwargs)
        file = Path(path).expanduser()
        try:
            source = file.read_bytes() if file.suffix == ".py" and file.is_file() else None
        except OSError as error:
            raise RewardError(f"custom_reward_function.path={path} cannot be read: {error.strerror}") from error
        search = [entry or os.getcwd() for entry in sys.path]
        # Every process runs what the file holds now, also one that is started after it was edited.
        spec = {"file": path, "name": name, "kwargs": self._kwargs, "source": source, "path": search}
        self._target = Target(name, spec, label=name)
        try:
            takes = pool.load(self._target)["takes"]
        except BaseException:
            pool.close()
            raise
        self._takes = GIVEN if takes is None else tuple(key for key in GIVEN if key in takes)

    def submit(self, prompt: Prompt, response: Response) -> Future[Outcome]:
        given = _given(prompt, response)
        return self._pool.submit(self._target, **{key: given[key] for key in self._takes}, **self._kwargs)

    def keep_output(self, file: Path) -> None:
        """From now on what the function prints goes to the end of this file."""
        self._pool.keep_output(file)

    def close(self) -> None:
        self._pool.close()


class InlineScorer:
    """Calls a function in this process, with the same arguments, copies too: an object of the caller's, or a GPU's.

    Python has no means to stop a call; one that takes longer than `timeout` seconds is an error and goes on in the
    background. A coroutine is cancelled.
    """

    def __init__(self, function: Callable[..., Any], name: str, kwargs: Mapping[str, Any], timeout: float) -> None:
        takes = parameters_of(function)
        self._takes = GIVEN if takes is None else tuple(key for key in GIVEN if key in takes)
        self._kwargs, self._name = dict(kwargs), name
        self._calls = InlineCalls(function, name, timeout, MAX_CALLS)

    def submit(self, prompt: Prompt, response: Response) -> Future[Outcome]:
        given = _given(prompt, response)
        try:
            arguments = deepcopy({key: given[key] for key in self._takes} | self._kwargs)
        except Exception as error:  # deepcopy passes on whatever a value's own methods raise
            done: Future[Outcome] = Future()
            done.set_result(Outcome(error=f"{self._name}: its row cannot be copied: {describe(error)}"))
            return done
        return self._calls.submit(arguments)

    def close(self) -> None:
        """Waits for nothing; calls that have not begun are cancelled."""
        self._calls.close()


def _given(prompt: Prompt, response: Response) -> dict[str, Any]:
    return {
        "data_source": prompt.data_source,
        "solution_str": response.text,
        "ground_truth": prompt.ground_truth,
        "extra_info": prompt.extra_info,
        "prompt_str": prompt.text,
    }
