"""What a reward function is, and how what it returns becomes an `Outcome`."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping
from concurrent.futures import Future
from numbers import Real
from typing import Any, Protocol

import numpy as np

from gspo.groups import Outcome, Prompt, Response

__all__ = ["RewardError", "RewardFunction", "Scorer", "to_outcome"]


class RewardError(ValueError):
    """A reward that is set up wrongly, or that failed where the run is to stop; the message says what to do."""


class RewardFunction(Protocol):
    """verl's signature, called by keyword; `async def` too. What may be returned is said at `to_outcome`."""

    def __call__(
        self, *, data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any], **kwargs: Any
    ) -> Any | Awaitable[Any]: ...


class Scorer(Protocol):
    """Judges one response, now or later. It never raises for a response: what goes wrong is an `Outcome.error`."""

    def submit(self, prompt: Prompt, response: Response) -> Future[Outcome]: ...


def to_outcome(result: Any) -> Outcome:
    """What a reward function returned, as an `Outcome`.

    A number or a bool is the value. A dict holds it under `score`, or says under `abstained` why there is none; `pred`
    is the answer that was read, as text; its other numbers are the extras, its other texts and the like are not
    figures and are left out. An `Outcome` stays. All else (None, NaN, infinity, another type) is an error that says so.
    """
    if isinstance(result, Outcome):
        return result if result.value is None else _finite(result.value, result.extras, result.answer)
    if isinstance(result, Mapping):
        return _from_dict(result)
    if _is_number(result):
        return _finite(float(result), {})
    if result is None:
        return Outcome(error="returned None: return a number, or a dict with `score`")
    return Outcome(error=f"returned a {type(result).__name__}: return a number, or a dict with `score`")


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, np.bool_))


def _from_dict(result: Mapping[Any, Any]) -> Outcome:
    extras = {
        str(key): float(value) for key, value in result.items() if key not in ("score", "pred") and _is_number(value)
    }
    if result.get("abstained") and isinstance(result["abstained"], str):
        return Outcome(abstained=result["abstained"], extras=extras)
    if "score" not in result:
        keys = ", ".join(map(str, result)) or "none"
        return Outcome(error=f"returned a dict without `score` (its keys: {keys})")
    score = result["score"]
    if not _is_number(score):
        return Outcome(error=f"returned a dict whose `score` is a {type(score).__name__}: it must be a number")
    return _finite(float(score), extras, None if result.get("pred") is None else str(result["pred"]))


def _finite(value: float, extras: Mapping[str, float], answer: str | None = None) -> Outcome:
    if not math.isfinite(value):
        return Outcome(error=f"returned {value}: a reward must be a finite number")
    for key, extra in extras.items():
        if not math.isfinite(extra):
            return Outcome(error=f"returned {key}={extra}: what is logged must be a finite number")
    return Outcome(value=value, extras=dict(extras), answer=answer)
