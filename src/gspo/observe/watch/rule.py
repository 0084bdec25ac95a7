"""One thing that can be wrong with a run, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History

__all__ = ["LR", "Rule", "figure", "share"]

LR = "actor_rollout_ref.actor.optim.lr"


@dataclass(frozen=True)
class Rule:
    """A warning of a run.

    Attributes:
        name: what is wrong, in two or three words.
        when: what is looked at, for the documentation.
        keys: the settings to change, for the documentation and the summary.
        seen: what was seen and what to do, in one line; empty while there is nothing to say.
        explained_by: names of rules of which this one is a consequence: it is not told while one of them holds.
        after: names of rules after which it is no news: it is not told once one of them was.
    """

    name: str
    when: str
    keys: tuple[str, ...]
    seen: Callable[[History, Facts], str]
    explained_by: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def figure(value: float) -> str:
    """A figure of a message: three digits."""
    return f"{value:.3g}"


def share(value: float) -> str:
    """The least of several shares, in a message."""
    return "all" if value > 0.995 else f"{value:.0%} or more"
