"""One fixed set of responses for two frameworks to compute the same loss on.

Responses are random tokens of varied length, advantages random numbers that do not cancel. Old log-probabilities are
those of the model at its start with a little noise, so that some ratios are inside of GSPO's clip range and some not.
This file needs nothing but Python.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CLIP_HIGH", "CLIP_LOW", "TOLERANCE", "CheckGroup", "compare", "make_groups", "read_groups", "write_groups"]

CLIP_LOW, CLIP_HIGH = 3e-4, 4e-4  # GSPO, arXiv 2507.18071, section 5.1
TOLERANCE = 1e-4  # relative: float32 sums in another order
_NOISE = 0.003  # of a token's log-probability; over 64 tokens the ratio then moves by about 4e-4
_MAX_PROMPTS, _MAX_RESPONSES = 2, 4  # few, so that the check does not decide a process's peak memory


@dataclass
class CheckGroup:
    """A prompt with responses, all as token ids.

    Attributes:
        old_log_probs: of each response's tokens; empty until the model has given them.
        teacher: the teacher's response, for GAD.
    """

    prompt: list[int]
    responses: list[list[int]]
    advantages: list[float]
    old_log_probs: list[list[float]]
    teacher: list[int] = field(default_factory=list)


def make_groups(prompts: Sequence[Sequence[int]], n: int, max_tokens: int, vocab_size: int) -> list[CheckGroup]:
    """Groups without old log-probabilities, for the first few of the prompts, of at most `n` responses."""
    draw, n = random.Random(0), min(n, _MAX_RESPONSES)
    groups = []
    for prompt in prompts[:_MAX_PROMPTS]:
        lengths = [draw.randint(max(1, max_tokens // 4), max_tokens) for _ in range(n)]
        responses = [[draw.randrange(4, vocab_size) for _ in range(length)] for length in lengths]
        groups.append(CheckGroup(list(prompt), responses, [draw.gauss(0.5, 1.0) for _ in range(n)], []))
    return groups


def add_noise(log_probs: Sequence[float], seed: int) -> list[float]:
    """Old log-probabilities near these."""
    draw = random.Random(seed)
    return [value + draw.gauss(0.0, _NOISE) for value in log_probs]


def write_groups(groups: Sequence[CheckGroup], file: Path) -> None:
    """Writes groups for `read_groups`."""
    file.write_text(json.dumps([vars(group) for group in groups]), encoding="utf-8")


def read_groups(file: Path) -> list[CheckGroup]:
    """The groups that `write_groups` wrote."""
    return [CheckGroup(**entry) for entry in json.loads(file.read_text(encoding="utf-8"))]


def compare(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, Any]:
    """Each figure of both, with the relative difference.

    Raises:
        ValueError: one differs by more than rounding explains.
    """
    figures = {
        name: {"ours": ours[name], "theirs": theirs[name], "relative": abs(ours[name] / theirs[name] - 1)}
        for name in theirs
    }
    wrong = [name for name, figure in figures.items() if not figure["relative"] <= TOLERANCE]
    if wrong:
        raise ValueError(f"the two do not compute the same: {', '.join(wrong)} of {json.dumps(figures)}")
    return figures
