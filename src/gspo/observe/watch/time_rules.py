"""A warning about a step that takes much longer than the ones before, as others use the cores."""

from __future__ import annotations

from statistics import median

from gspo.observe.sparkline import duration
from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History
from gspo.observe.watch.rule import Rule, figure

__all__ = ["TIME_RULES"]

_STEPS = 5  # the last one is held against the others
_SLOWER, _LONGER = 3.0, 5.0  # times the tokens' time, and seconds: short steps differ for many reasons
_OTHERS = 0.5  # cores


def _slow_step(history: History, facts: Facts) -> str:
    del facts
    rates, seconds = history.values("perf/throughput", _STEPS), history.values("timing_s/step", _STEPS)
    others = history.row.get("perf/cores_others", 0.0)
    if not rates or not seconds or others < _OTHERS:
        return ""
    if rates[-1] * _SLOWER > median(rates[:-1]) or seconds[-1] < median(seconds[:-1]) + _LONGER:
        return ""
    return (
        f"it took {duration(seconds[-1])}, the ones before {duration(median(seconds[:-1]))}, while other processes "
        f"used {figure(others)} of this one's cores (perf/cores_others): wait for them, or set trainer.num_threads to "
        "the cores that they leave. GOMP_SPINCOUNT=1000 in the environment lets threads that wait give way"
    )


TIME_RULES = (
    Rule(
        "slow step",
        "a step at a third or less of the `perf/throughput` of the four before and 5 seconds longer, while other "
        "processes use half a core or more",
        ("trainer.num_threads",),
        _slow_step,
    ),
)
