"""A user's reward function: found in its file, checked and called. Loads no torch."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gspo.config.neighbours import search_folder_of
from gspo.rewards.errors import RewardError, describe

__all__ = ["GIVEN", "check_function", "is_async", "load_function", "parameters_of"]

# What each row gives a function, by keyword.
GIVEN = ("data_source", "solution_str", "ground_truth", "extra_info", "prompt_str")


def load_function(
    path: str, name: str, kwargs: Mapping[str, Any], source: bytes | None = None, *, like_a_script: bool = True
) -> Callable[..., Any]:
    """The function `name` of the Python file `path`, which is run as a module. Modules of its folder can be imported.

    Args:
        path: the file.
        name: of the function.
        kwargs: its own settings.
        source: what the file held when the run started; None: what it holds.
        like_a_script: the file's folder is searched first, as Python does for a script; else last.

    Raises:
        RewardError: there is no such file or function, the file does not run, or the function does not take verl's
            arguments and `kwargs`.
    """
    file = Path(path).expanduser()
    if not file.is_file() and source is None:
        raise RewardError(f"custom_reward_function.path={path} is not a file: name the Python file of your function")
    module_name = f"gspo_custom_reward_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    if spec is None or spec.loader is None:
        raise RewardError(f"custom_reward_function.path={path} is not a Python file: it must end in .py")
    search_folder_of(file, first=like_a_script)
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        if source is None:
            spec.loader.exec_module(module)
        else:
            exec(compile(source, str(file), "exec"), vars(module))  # as exec_module does, but for reading the file
    except KeyboardInterrupt:
        raise
    except SystemExit as error:
        raise RewardError(
            f"{file} does not run: {describe(error, str(file))}: it ends the process when it is imported; put that "
            'under `if __name__ == "__main__":`'
        ) from error
    except BaseException as error:
        raise RewardError(f"{file} does not run: {describe(error, str(file))}") from error
    function = getattr(module, name, None)
    if not callable(function):
        functions = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
        there = ", ".join(key for key, value in functions.items() if value.__module__ == module_name)
        raise RewardError(
            f"{file} has no function {name!r}; its functions: {there or 'none'}: set custom_reward_function.name"
        )
    check_function(function, f"{name} in {file}", kwargs, "custom_reward_function")
    return function


def is_async(function: Callable[..., Any]) -> bool:
    """Whether calling it gives a coroutine: an `async def`, an object with an async `__call__`, a partial of one."""
    while isinstance(function, partial):
        function = function.func
    call = getattr(function, "__call__", None)  # noqa: B004 (an object whose call is a coroutine)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def parameters_of(function: Callable[..., Any]) -> set[str] | None:
    """The keywords that a function takes; None: any."""
    parameters = inspect.signature(function).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.VAR_POSITIONAL)
    return {parameter.name for parameter in parameters if parameter.kind not in kinds}


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
    try:
        takes = parameters_of(function)
        given = {*GIVEN, *kwargs} if takes is None else {name for name in GIVEN if name in takes} | {*kwargs}
        inspect.signature(function).bind(**dict.fromkeys(given))
    except (TypeError, ValueError) as error:  # ValueError: a function of C that does not say what it takes
        raise RewardError(
            f"{where}: {name} cannot be called with the keywords {', '.join([*GIVEN, *kwargs])} ({error}): give it "
            "some of these parameters, or **kwargs"
        ) from error
