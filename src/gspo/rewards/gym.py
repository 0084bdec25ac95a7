"""Answers to reasoning-gym's tasks, judged by each task's own scorer. Runs in the scoring processes."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from reasoning_gym.factory import create_dataset

from gspo.rewards import guards

__all__ = ["extract_answer", "score_gym"]

_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)

guards.install()


def score_gym(
    solution_str: str, task: str, task_config: str, entry: str, exact: bool = False
) -> dict[str, float | str]:
    """The task's own score of a response, 0 to 1; `acc` is 1 for a full score.

    Args:
        solution_str: the response; the text in its last <answer>...</answer> is the answer, else all of it.
        task: the task's name.
        task_config: the settings that the entry was drawn with, as JSON text.
        entry: the task's entry (question, answer, metadata), as JSON text.
        exact: an answer that is only partly right is worth nothing. Many tasks give part of the points for it, which a
            policy learns to collect (spell_backward: for right letters in front of wrong ones).
    """
    scorer = _scorer(task, task_config)
    answer = extract_answer(solution_str)
    score = float(scorer.score_answer(answer, json.loads(entry, object_hook=_untag)))
    correct = float(score >= 1.0)
    return {"score": correct if exact else score, "acc": correct, "pred": answer}


def extract_answer(text: str) -> str:
    """The text in the last <answer>...</answer>, else the whole text; without the space around it."""
    found = _ANSWER.findall(text)
    return str(found[-1] if found else text).strip()


@lru_cache(maxsize=64)
def _scorer(task: str, task_config: str) -> Any:
    return create_dataset(task, **json.loads(task_config))


def _untag(value: dict[str, Any]) -> Any:
    return tuple(value["__tuple__"]) if value.keys() == {"__tuple__"} else value
