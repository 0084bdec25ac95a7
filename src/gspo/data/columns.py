"""From a row, whose prompt is text and tokens already, to a Prompt: its other columns, each checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gspo.config.schema_data import DataConfig
from gspo.config.texts import text_problem
from gspo.data.rows import DataError, Table
from gspo.groups import Prompt

__all__ = ["make_prompt"]

# verl's columns of what is no text. A prompt without them would be another question than its row asks.
_NO_TEXTS = ("images", "videos", "audios")
# What JSON has. Parquet has more (decimals, dates, durations, bytes), which no reward function compares with a text.
_JSON = (str, int, float, bool, list, dict, type(None))


def make_prompt(
    table: Table, number: int, config: DataConfig, text: str, ids: list[int], require_teacher: bool, text_key: str
) -> Prompt:
    """The prompt of a row.

    Args:
        table: the rows.
        number: the row's, from 0.
        config: the `data` section.
        text: the prompt as the model reads it.
        ids: its tokens.
        require_teacher: the row must have a text to learn from.
        text_key: the key of the `data` section that names this text's column: teacher_key or answer_key.

    Raises:
        DataError: a column holds what cannot be used; names the row.
    """
    row = table.rows[number]
    source = row.get("data_source") if "data_source" in table.columns else table.source
    reward_model, extra_info = row.get("reward_model"), row.get("extra_info")
    teacher = row.get(getattr(config, text_key))
    problem = None
    if not isinstance(source, str) or not source:
        problem = f"data_source is {source!r}: it must be a text, which names the data"
    elif not isinstance(reward_model, (dict, type(None))):
        problem = f"reward_model is a {type(reward_model).__name__}: it must be {{style, ground_truth}}, or null"
    elif not isinstance(extra_info, (dict, type(None))):
        problem = f"extra_info is a {type(extra_info).__name__}: it must be an object, or null"
    elif seen := next((key for key in _NO_TEXTS if isinstance(row.get(key), (list, tuple)) and row[key]), None):
        problem = f"{seen} has {len(row[seen])} beside the text, and models of texts are trained only: remove the row"
    elif require_teacher:
        problem = _teacher_problem(table, config, text_key, teacher)
    problem = problem or _unusable(table, row, getattr(config, text_key))
    if problem:
        raise DataError.at(table.place, number, problem)
    return Prompt(
        uid=f"{table.label}:{number}",
        token_ids=tuple(ids),
        text=text,
        data_source=str(source),
        ground_truth=(reward_model or {}).get("ground_truth"),
        extra_info=extra_info or {},
        teacher_response=teacher if isinstance(teacher, str) and teacher.strip() else None,
    )


def _unusable(table: Table, row: Mapping[str, Any], text_key: str) -> str | None:
    """What is wrong with the values that are handed on: to reward functions, the tokenizer and the files of a run."""
    for key in ("data_source", "reward_model", "extra_info", text_key):
        if problem := text_problem(row.get(key), key):
            return problem
    truth = (row.get("reward_model") or {}).get("ground_truth")
    if table.path is None or isinstance(truth, _JSON):  # a program may hand any object to its own reward function
        return None
    return f"reward_model.ground_truth is a {type(truth).__name__} ({truth!r}): cast the column to a text or a number"


def _teacher_problem(table: Table, config: DataConfig, text_key: str, teacher: Any) -> str | None:
    key = getattr(config, text_key)
    if key not in table.columns:
        problem = (
            f"there is no column {key!r} with a text to learn from (the columns: {', '.join(table.columns)}): "
            f"add it, or set {config.key(text_key)}"
        )
        if text_key == "answer_key":
            return problem
        return f"{problem}; GAD learns from a teacher's text, critic.enable=false trains on rewards alone"
    if teacher is None:
        return f"{key} is null: write the text, or remove the row"
    if not isinstance(teacher, str):
        return f"{key} is a {type(teacher).__name__}: it must be a text"
    return None if teacher.strip() else f"{key} is empty: write the text, or remove the row"
