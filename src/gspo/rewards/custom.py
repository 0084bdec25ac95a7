"""A user's own reward function, called in this process, many calls at a time."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from gspo.groups import Outcome, Prompt, Response
from gspo.rewards.base import RewardError, to_outcome

__all__ = ["GIVEN", "CustomScorer", "check_function", "load_function"]

# What each row gives a function, by keyword.
GIVEN = ("data_source", "solution_str", "ground_truth", "extra_info", "prompt_str")

# Such functions wait as a rule (for a judge model, a service), so there are many more of them than processors.
_MAX_CALLS = 64
# Beyond the limit that a coroutine is given: when it is up, the event loop itself does not answer.
_GRACE = 1.0


class CustomScorer:
    """Calls a function with those of verl's arguments that it takes, sync or async, up to 64 calls at a time.

    Beyond verl's four there is `prompt_str`, the prompt's text.

    A call that takes longer than `timeout` seconds is an error. A coroutine is cancelled then; Python has no means to
    stop a plain function, which goes on in the background until it returns.
    """

    def __init__(self, function: Callable[..., Any], kwargs: Mapping[str, Any], timeout: float) -> None:
        self._function = function
        self._takes = _takes(function)
        self._kwargs = dict(kwargs)
        self._timeout = timeout
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 (an object whose call is a coroutine)
        )
        self._threads = ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="custom-reward")
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def submit(self, prompt: Prompt, response: Response) -> Future[Outcome]:
        call = self._call_async if self._is_async else self._call_sync
        arguments = {
            "data_source": prompt.data_source,
            "solution_str": response.text,
            "ground_truth": prompt.ground_truth,
            "extra_info": prompt.extra_info,
            "prompt_str": prompt.text,
        }
        given = arguments if self._takes is None else {name: arguments[name] for name in self._takes & arguments.keys()}
        return self._threads.submit(call, {**given, **self._kwargs})

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    def _call_sync(self, arguments: dict[str, Any]) -> Outcome:
        done: Future[Outcome] = Future()

        def call() -> None:
            try:
                done.set_result(to_outcome(self._function(**arguments)))
            except BaseException as error:  # an exit() in the function, too, is this response's error
                done.set_result(_failed(error))

        # A thread of its own, which the run can leave behind when it hangs, at the end too.
        threading.Thread(target=call, daemon=True).start()
        try:
            return done.result(self._timeout)
        except TimeoutError:
            return Outcome(
                error=f"timed out after {self._timeout:g} s (reward.timeout); the call cannot be stopped and goes on "
                "in the background"
            )

    def _call_async(self, arguments: dict[str, Any]) -> Outcome:
        loop = self._running_loop()
        done = asyncio.run_coroutine_threadsafe(self._limited(arguments), loop)
        try:
            return done.result(self._timeout + _GRACE)
        except TimeoutError:
            with self._lock:
                if self._loop is loop:
                    self._loop = None
            return Outcome(
                error=f"timed out after {self._timeout:g} s and blocked the event loop: "
                "await what takes long, or make it a plain def"
            )

    async def _limited(self, arguments: dict[str, Any]) -> Outcome:
        task = asyncio.ensure_future(self._function(**arguments))
        finished, _ = await asyncio.wait({task}, timeout=self._timeout)
        if not finished:
            task.cancel()
            return Outcome(error=f"timed out after {self._timeout:g} s")
        if task.cancelled():
            return Outcome(error="cancelled itself")
        error = task.exception()
        return to_outcome(task.result()) if error is None else _failed(error)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_loop, args=(self._loop,), daemon=True).start()
            return self._loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _failed(error: BaseException) -> Outcome:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return Outcome(error=f"{type(error).__name__}: {error} ({Path(frame.filename).name}, line {frame.lineno})")


def load_function(path: str, name: str, kwargs: Mapping[str, Any]) -> Callable[..., Any]:
    """The function `name` of the Python file `path`, which is run as a module.

    Raises:
        RewardError: there is no such file or function, the file does not run, or the function does not take verl's
            arguments and `kwargs`.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise RewardError(f"custom_reward_function.path={path} is not a file: name the Python file of your function")
    module_name = f"gspo_custom_reward_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise RewardError(f"custom_reward_function.path={path} is not a Python file: it must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise RewardError(f"{file} does not run: {_failed(error).error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
        there = ", ".join(key for key, value in functions.items() if value.__module__ == module_name)
        raise RewardError(
            f"{file} has no function {name!r}; its functions: {there or 'none'}: set custom_reward_function.name"
        )
    check_function(function, f"{name} in {file}", kwargs, "custom_reward_function")
    return function


def _takes(function: Callable[..., Any]) -> set[str] | None:
    """The keywords that a function takes; None: any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return {parameter.name for parameter in parameters if parameter.kind is not parameter.POSITIONAL_ONLY}


def check_function(function: Any, name: str, kwargs: Mapping[str, Any], where: str) -> None:
    """Checks that a function can be called with a row's keywords and its own settings.

    Args:
        function: the user's.
        name: of the function, for messages.
        kwargs: its own settings.
        where: what has to be changed, for messages.

    Raises:
        RewardError: it is no function, or it has a parameter that nothing gives.
    """
    if not callable(function):
        raise RewardError(f"{where}: {name} is a {type(function).__name__}: give a function")
    for key in kwargs:
        if key in GIVEN:
            raise RewardError(f"{where}: the kwargs of {name} have {key!r}, which each row gives: remove it")
    takes = _takes(function)
    given = {*GIVEN, *kwargs} if takes is None else {name for name in GIVEN if name in takes} | {*kwargs}
    try:
        inspect.signature(function).bind(**dict.fromkeys(given))
    except TypeError as error:
        raise RewardError(
            f"{where}: {name} cannot be called with the keywords {', '.join([*GIVEN, *kwargs])} ({error}): give it "
            "some of these parameters, or **kwargs"
        ) from error
