"""Metrics of a batch as sums and counts, and the clock that tells where a step's time goes.

Names are verl's: `critic/{score,rewards,advantages,returns,values}/*`, `{prompt,response}_length/*`, `timing_s/*`,
`perf/*`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from gspo.algorithms.stats import Derived, Max, Mean, Min, Stat
from gspo.groups import Group, GroupBatch, Response

__all__ = ["OUTSIDE_STEP", "PhaseClock", "batch_metrics", "throughput_metrics"]

# What is one figure per response (the sum over its tokens), and what is one per token.
_PER_RESPONSE = {"critic/score": "token_level_scores", "critic/rewards": "token_level_rewards"}
_PER_TOKEN = {"critic/advantages": "advantages", "critic/returns": "returns", "critic/values": "values"}


# Phases that are no part of a step: their seconds stand beside those of `timing_s/step`, not within.
OUTSIDE_STEP = ("testing", "save_checkpoint", "export", "report")


class PhaseClock:
    """Adds up the seconds of a step's phases: `with clock("gen"): ...` becomes `timing_s/gen`.

    Phases may nest (`step` around all of them) and may be entered several times a step.
    """

    def __init__(
        self,
        synchronize: Callable[[], None] = lambda: None,
        on_phase: Callable[[str], None] = lambda _: None,
        now: Callable[[], float] = time.perf_counter,
        on_count: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """Makes a clock at zero.

        Args:
            synchronize: waits for the device (`torch.cuda.synchronize`), so that work counts where it was asked for.
            on_phase: called with the name of each phase as it begins, and with that of the one around it (empty where
                there is none) as it ends: for a view of what runs now.
            now: the seconds' source.
            on_count: called with how many things of a phase are done, and of how many.
        """
        self._synchronize, self._on_phase, self._now, self._on_count = synchronize, on_phase, now, on_count
        self._seconds: dict[str, float] = {}
        self._running: list[str] = []

    @contextmanager
    def __call__(self, name: str, total: int = 0) -> Iterator[Callable[[int], None]]:
        """Times a phase.

        Args:
            name: of the phase.
            total: how many things it does, where they are counted.

        Returns:
            what is called with how many more of them are done.
        """
        done = 0

        def count(more: int) -> None:
            nonlocal done
            done += more
            self._on_count(done, total)

        self._on_phase(name)
        self._running.append(name)
        self._synchronize()
        start = self._now()
        try:
            yield count
            self._synchronize()
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._now() - start
            self._running.pop()
            self._on_phase(self._running[-1] if self._running else "")

    def pop(self) -> dict[str, float]:
        """`timing_s/*` since the last call, in seconds, and starts from zero again."""
        seconds, self._seconds = self._seconds, {}
        return {f"timing_s/{name}": value for name, value in seconds.items()}


def throughput_metrics(num_tokens: int, seconds: float, num_devices: int = 1) -> dict[str, float]:
    """`perf/total_num_tokens`, `perf/time_per_step` (seconds) and `perf/throughput` (tokens per second and device).

    Args:
        num_tokens: tokens of the step, prompts and responses, over all ranks.
        seconds: the step's time.
        num_devices: ranks that shared the work.
    """
    return {
        "perf/total_num_tokens": float(num_tokens),
        "perf/time_per_step": seconds,
        "perf/throughput": num_tokens / (seconds * num_devices) if seconds > 0 else 0.0,
    }


def batch_metrics(batch: GroupBatch) -> dict[str, Stat]:
    """What a batch looks like: scores, rewards, advantages, returns, lengths, truncation, groups without a signal.

    Tensors that the batch does not hold have no metrics. Advantages, returns and values are over written tokens, as in
    verl. `response_length/clip_ratio` is the fraction cut at the token limit; `group/zero_spread` the fraction of
    groups whose rewards are all equal: their group advantages are zero and teach nothing. Of these, `group/all_right`
    are solved by every response and `group/all_wrong` by none.
    """
    stats: dict[str, Stat] = {}
    for name, key in _PER_RESPONSE.items():
        if key in batch.tensors:
            stats |= _spread(name, batch[key].sum(-1))
    written = batch["response_mask"].bool()
    for name, key in _PER_TOKEN.items():
        if key in batch.tensors and written.any():
            stats |= _spread(name, batch[key][written])
    if "advantages" in batch.tensors and written.any():
        stats["critic/advantages/std"] = _deviation(batch["advantages"][written])
    responses = [response for group in batch.groups for response in group.responses]
    scores = [response.reward for response in responses if response.reward is not None]
    if "token_level_scores" not in batch.tensors and scores:
        stats |= _spread("critic/score", torch.tensor(scores))
    prompts = [len(group.prompt.token_ids) for group in batch.groups for _ in group.responses]
    stats |= _spread("prompt_length", torch.tensor(prompts, dtype=torch.float64))
    stats |= _spread("response_length", torch.tensor([len(response) for response in responses], dtype=torch.float64))
    cut = sum(response.finish_reason == "length" for response in responses)
    stats["response_length/clip_ratio"] = Mean(float(cut), float(len(responses)))
    return stats | _without_a_signal(batch.groups)


def _without_a_signal(groups: Sequence[Group]) -> dict[str, Stat]:
    """The groups whose rewards are all equal, and which of them are solved and which hopeless.

    A response is right by the `acc` of its reward function; without one, by a reward above zero. A discriminator's
    score says neither.
    """
    flat = [group for group in groups if len({r.reward for r in group.responses if r.reward is not None}) <= 1]
    judged = [[right for r in group.responses if (right := _is_right(group, r)) is not None] for group in flat]
    counts = {
        "zero_spread": len(flat),
        "all_right": sum(bool(rights) and all(rights) for rights in judged),
        "all_wrong": sum(bool(rights) and not any(rights) for rights in judged),
    }
    return {f"group/{name}": Mean(float(number), float(len(groups))) for name, number in counts.items()}


def _is_right(group: Group, response: Response) -> bool | None:
    """Whether a response is correct; None where nothing says so."""
    if response.outcome is None or response.reward is None:
        return None
    if "acc" in response.outcome.extras:
        return response.outcome.extras["acc"] > 0
    return None if group.teacher is not None else response.reward > 0


def _spread(name: str, values: Tensor) -> dict[str, Stat]:
    """Mean, largest and smallest of values of any shape, at least one."""
    values = values.detach()
    return {
        f"{name}/mean": Mean(values.sum(), float(values.numel())),
        f"{name}/max": Max(values.max()),
        f"{name}/min": Min(values.min()),
    }


def _deviation(values: Tensor) -> Derived:
    """Standard deviation of values of any shape, at least one; dividing by their number, as a mean does."""
    values = values.detach().double()
    sums = torch.stack(
        [torch.tensor(float(values.numel()), dtype=torch.float64).to(values.device), values.sum(), (values**2).sum()]
    )

    def figure(sums: Tensor) -> float:
        count, total, squares = sums.tolist()
        return math.sqrt(max(squares / count - (total / count) ** 2, 0.0))

    return Derived(sums, figure)
