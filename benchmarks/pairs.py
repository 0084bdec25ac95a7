"""Two frameworks in turn: their figures pair by pair, and the medians."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from statistics import median
from typing import Any

from serving import Worker

__all__ = ["add_options", "medians", "pair_line", "take_turns"]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every comparison."""
    parser.add_argument("--pairs", type=int, default=5, help="steps of each; 0: the check of the losses only")
    parser.add_argument(
        "--wait-policy",
        choices=("usual", "passive", "active"),
        default="usual",
        help="of idle OpenMP threads; usual: as a user has it, they spin for a moment and then sleep",
    )


def pair_line(name: str, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """One pair: seconds of both and how many times faster this project is, per step and per sampled token.

    Args:
        name: of the other framework, for the keys.
        theirs, ours: a step's `seconds`, `phases`, `completion_tokens`.
    """
    return {
        f"{name}_s": theirs["seconds"],
        "ours_s": ours["seconds"],
        "ratio": theirs["seconds"] / ours["seconds"],
        "ratio_per_token": theirs["seconds"]
        / theirs["completion_tokens"]
        * ours["completion_tokens"]
        / ours["seconds"],
        f"{name}_phases_s": theirs["phases"],
        "ours_phases_s": ours["phases"],
        f"{name}_tokens": theirs["completion_tokens"],
        "ours_tokens": ours["completion_tokens"],
    }


def medians(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of the pairs' figures; a ratio's is the median of the ratios."""

    def of(key: str) -> Any:
        values = [pair[key] for pair in pairs]
        if isinstance(values[0], dict):
            return {name: median(value[name] for value in values) for name in values[0]}
        return median(values)

    return {key: of(key) for key in pairs[0]}


def take_turns(theirs: Worker, ours: Worker, count: int) -> dict[str, Any]:
    """A warm-up step of each, then pairs, each printed as a JSON line.

    Returns:
        `pairs`, `median`, the peak memory of each process, and `memory_ratio`, theirs over ours.
    """
    name = theirs.name
    for worker in (theirs, ours):
        worker.ask("step")
    pairs, memory = [], {name: 0.0, "ours": 0.0}
    for _ in range(count):
        replies = theirs.ask("step"), ours.ask("step")
        memory = dict(zip(memory, (reply["peak_memory_mb"] for reply in replies), strict=True))
        pairs.append(pair_line(name, *replies))
        print(json.dumps(pairs[-1]), flush=True)
    return {
        "pairs": count,
        "median": medians(pairs),
        **{f"{key}_peak_memory_mb": value for key, value in memory.items()},
        "memory_ratio": memory[name] / memory["ours"],
    }
