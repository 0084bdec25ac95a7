"""What a reward function is, and how what it returns becomes an `Outcome`."""

from __future__ import annotations

from collections.abc import Awaitable
from concurrent.futures import Future
from typing import Any, Protocol

from gspo.groups import Outcome, Prompt, Response
from gspo.rewards.errors import RewardError
from gspo.rewards.returned import read_result

__all__ = ["RewardError", "RewardFunction", "Scorer", "to_outcome"]


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

    A number or a bool is the value; so is an array or a tensor without dimensions. A dict holds it under `score`, or
    says under `abstained` why there is none; `pred` is the answer that was read, as text; its other numbers are the
    extras, its other texts and the like are not figures and are left out. An `Outcome` stays. All else (None, NaN, a
    number that is infinite in float32, another type) is an error that says so.
    """
    return Outcome(**read_result(result))
