"""Responses that a page shows: at a few steps, and of each prompt one, with how its group did."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from gspo.observe.report.numbers import plain
from gspo.observe.report.run import Run, mean

__all__ = ["excerpts"]

_STEPS = 4  # spread evenly from the first step with samples to the last
_PROMPTS_PER_STEP = 3
_LONGEST_TEXT = 6000  # characters of a prompt or response; the end of a long text is what was cut, and is said to be
_SPLITS = {"val": "Held-out prompts", "train": "Training prompts"}

Step = tuple[int, list[dict[str, Any]]]


def excerpts(run: Run) -> list[tuple[str, list[Step]]]:
    """Responses at a few steps, held-out ones first; held-out prompts come again at each step, so that change shows."""
    sections = []
    for split, title in _SPLITS.items():
        by_step: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
        for sample in run.samples:
            if sample.get("split") == split:
                by_step[sample["step"]].append(sample)
        if not by_step:
            continue
        steps = sorted(by_step)
        places = {round(place * (len(steps) - 1) / (_STEPS - 1)) for place in range(_STEPS)}
        chosen = [steps[place] for place in sorted(places)]
        sections.append((title, [(step, _of_step(by_step[step])) for step in chosen]))
    return sections


def _of_step(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first response to each of the first prompts; rows of one text are one prompt."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for sample in samples:
        groups.setdefault(str(sample.get("prompt", "")), []).append(sample)
    return [_shown(group) for group in list(groups.values())[:_PROMPTS_PER_STEP]]


def _shown(group: Sequence[dict[str, Any]]) -> dict[str, Any]:
    sample = group[0]
    reward = _number(sample.get("reward"))
    rewards = [value for other in group if (value := _number(other.get("reward"))) is not None]
    return {
        "prompt": _cut(str(sample.get("prompt", ""))),
        "response": _cut(str(sample.get("response", ""))),
        "teacher": _cut(str(sample.get("teacher", ""))),
        "reward": "none" if reward is None else plain(reward),
        "good": reward is not None and reward > 0,
        "length": sample.get("length", "?"),
        "cut": sample.get("finish_reason") == "length",
        "trouble": sample.get("error") or sample.get("abstained") or "",
        "group": f"1 of {len(group)}, mean {plain(mean(rewards))}" if len(group) > 1 and rewards else "",
    }


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _cut(text: str) -> str:
    left_out = len(text) - _LONGEST_TEXT
    return text if left_out <= 0 else f"{text[:_LONGEST_TEXT]} … ({left_out} more characters in samples.jsonl)"
