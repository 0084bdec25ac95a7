"""What a reward function returned, read into the fields of an `Outcome`. Loads neither torch nor numpy."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from numbers import Real
from typing import Any

__all__ = ["FLOAT32_MAX", "read_result"]

# Rewards become float32 tensors; a larger one would be infinite there.
FLOAT32_MAX = (2 - 2**-23) * 2.0**127


def read_result(result: Any) -> dict[str, Any]:
    """The fields of the `Outcome` (value, extras, answer, abstained, error) that a result means, all of them JSON.

    A number or a bool is the value; so is an array or a tensor without dimensions. A dict holds it under `score`, or
    says under `abstained` why there is none; `pred` is the answer that was read, as text; its other numbers are the
    extras, its other texts and the like are not figures and are left out. An `Outcome` stays. All else (None, NaN, a
    number that is infinite in float32, another type) is an error that says so.
    """
    outcome = getattr(sys.modules.get("gspo.groups"), "Outcome", None)  # only who has loaded it can return one
    if outcome is not None and isinstance(result, outcome):
        if result.value is None:
            return {"extras": dict(result.extras), "abstained": result.abstained, "error": result.error}
        return _finite(result.value, result.extras, result.answer)
    if isinstance(result, Mapping):
        return _read_dict(result)
    value = _number(result)
    if value is not None:
        return _finite(value, {})
    if result is None:
        return {"error": "returned None: return a number, or a dict with `score`"}
    return {"error": f"returned a {type(result).__name__}: return a number, or a dict with `score`"}


def _read_dict(result: Mapping[Any, Any]) -> dict[str, Any]:
    numbers = {str(key): _number(value) for key, value in result.items() if key not in ("score", "pred")}
    extras = {key: value for key, value in numbers.items() if value is not None}
    abstained = result.get("abstained")
    if abstained and isinstance(abstained, str):
        return {"abstained": abstained, "extras": extras}
    if "score" not in result:
        return {"error": f"returned a dict without `score` (its keys: {', '.join(map(str, result)) or 'none'})"}
    score = _number(result["score"])
    if score is None:
        kind = type(result["score"]).__name__
        return {"error": f"returned a dict whose `score` is a {kind}: it must be a number"}
    return _finite(score, extras, None if result.get("pred") is None else str(result["pred"]))


def _number(value: Any) -> float | None:
    """A real number, also one of numpy or torch or in an array without dimensions, as a float; None: it is none.

    An integer beyond all floats is infinity.
    """
    if not isinstance(value, Real) and getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        value = value.item()
    if not isinstance(value, Real):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _finite(value: float, extras: Mapping[str, float], answer: str | None = None) -> dict[str, Any]:
    if problem := _not_finite(value):
        return {"error": f"returned {problem}: a reward must be a finite number"}
    for key, extra in extras.items():
        if problem := _not_finite(extra):
            return {"error": f"returned {key}={problem}: what is logged must be a finite number"}
    return {"value": float(value), "extras": {key: float(extra) for key, extra in extras.items()}, "answer": answer}


def _not_finite(value: float) -> str | None:
    if not math.isfinite(value):
        return str(value)
    return f"{value:g}, beyond float32 (at most {FLOAT32_MAX:.2g})" if abs(value) > FLOAT32_MAX else None
