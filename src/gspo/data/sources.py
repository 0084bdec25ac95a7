"""Writers of data sets: GSM8K and lines of json, as parquet in verl's columns."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gspo.config.paths import expanded
from gspo.config.texts import text_problem
from gspo.data.delimited import read_any_table
from gspo.data.rows import DataError, read_table
from gspo.shell import pip_install

__all__ = ["GSM8K_INSTRUCTION", "Written", "make_row", "write_gsm8k", "write_jsonl", "write_parquet"]

GSM8K_INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'
_CALCULATOR = re.compile(r"<<[^<>]*>>")  # GSM8K's notes for a calculator, which a reader does not see


@dataclass(frozen=True)
class Written:
    """One file that was written: where, how many rows, and the first of them."""

    path: Path
    num_rows: int
    example: dict[str, Any]

    def __str__(self) -> str:
        prompt = self.example["prompt"][-1]["content"]
        truth = self.example["reward_model"]["ground_truth"]
        return f"{self.path}: {self.num_rows} rows\n  prompt: {prompt}\n  ground truth: {truth}"


def make_row(
    question: str,
    ground_truth: str | None,
    *,
    data_source: str,
    ability: str,
    extra_info: Mapping[str, Any],
    instruction: str = "",
    system_prompt: str | None = None,
    **columns: Any,
) -> dict[str, Any]:
    """A row in verl's columns: the question with the instruction after it, and `columns` besides."""
    content = f"{question} {instruction}" if instruction else question
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return {
        "data_source": data_source,
        "prompt": [*messages, {"role": "user", "content": content}],
        "ability": ability,
        "reward_model": {"style": "rule", "ground_truth": ground_truth},
        "extra_info": dict(extra_info),
        **columns,
    }


def write_parquet(rows: Sequence[Mapping[str, Any]], path: Path) -> Written:
    """Writes rows as parquet, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([dict(row) for row in rows])
    with path.open("wb") as file:  # its errors have the path, Arrow's have not
        pq.write_table(table, file)
    return Written(path, len(rows), dict(rows[0]))


def write_gsm8k(source: str | Path, out_dir: str | Path) -> list[Written]:
    """GSM8K (arXiv 2110.14168) as train.parquet and test.parquet.

    The ground truth is the text after the solution's ####. The worked solution is kept in `answer` as it is, and in
    `teacher_response` without the calculator's notes.

    Args:
        source: a folder with train.jsonl and test.jsonl of {question, answer}, or the id of a data set on the hub.
        out_dir: where the two files are written.

    Raises:
        DataError: the source is neither, or a row has no question, no solution or no ####.
    """
    splits = {
        split: [_gsm8k_row(place, number, row, split) for number, row in enumerate(rows)]
        for split, (place, rows) in _gsm8k_splits(source).items()
    }
    folder = expanded(out_dir, "--out")
    return [write_parquet(rows, folder / f"{split}.parquet") for split, rows in splits.items()]


def _gsm8k_splits(source: str | Path) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    folder = expanded(source, "--source")
    if folder.is_dir():
        files = {split: folder / f"{split}.jsonl" for split in ("train", "test")}
        return {split: (str(path), read_table(path).rows) for split, path in files.items()}
    try:
        import datasets  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise DataError(
            f"{source} is not a folder, and reading it from the Hugging Face hub needs the package `datasets`: "
            f"name a folder with train.jsonl and test.jsonl, or install it by `{pip_install('datasets')}`"
        ) from error
    splits = datasets.load_dataset(str(source), "main")
    return {split: (f"{source} {split}", list(splits[split])) for split in ("train", "test")}


def _gsm8k_row(place: str, number: int, row: Mapping[str, Any], split: str) -> dict[str, Any]:
    for key in ("question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise DataError.at(place, number, f"has no text {key!r} (its keys: {', '.join(row)}): name GSM8K's files")
        if problem := text_problem(row[key], key):
            raise DataError.at(place, number, problem)
    solution = row["answer"]
    _, marker, truth = solution.rpartition("####")
    if not marker or not truth.strip():
        raise DataError.at(place, number, "the answer has no number after ####: this is not GSM8K's solution")
    return make_row(
        row["question"],
        truth.strip().replace(",", ""),
        data_source="openai/gsm8k",
        ability="math",
        instruction=GSM8K_INSTRUCTION,
        extra_info={"split": split, "index": number, "question": row["question"], "answer": solution},
        answer=solution,
        teacher_response=_CALCULATOR.sub("", solution),
    )


def write_jsonl(
    file: str | Path,
    out: str | Path,
    *,
    prompt_key: str = "prompt",
    answer_key: str | None = "answer",
    teacher_key: str | None = None,
    data_source: str | None = None,
    ability: str = "general",
    instruction: str = "",
    system_prompt: str | None = None,
) -> Written:
    """A .jsonl, .json, .parquet, .csv or .tsv file of questions and answers as parquet in verl's columns.

    Args:
        file: the rows.
        out: the .parquet file to write.
        prompt_key: the question, a text.
        answer_key: the ground truth, kept as text; None where there is none (distillation).
        teacher_key: the teacher's text, where there is one.
        data_source: selects the reward; None takes the file's name.
        ability: the column `ability`.
        instruction: put after each question, with a space.
        system_prompt: put before each question.

    Raises:
        DataError: the file cannot be read, or a row lacks one of its keys.
    """
    path, target = expanded(file, "FILE"), expanded(out, "--out")
    if target.suffix != ".parquet":
        raise DataError(f"{target} is not a .parquet file: name the file to write, such as {target / 'train.parquet'}")
    rows = []
    for number, row in enumerate(read_any_table(path).rows):
        question = _required(path, number, row, prompt_key, "--prompt-key")
        if not isinstance(question, str) or not question.strip():
            raise DataError.at(str(path), number, f"{prompt_key!r} is not a text with something in it: {question!r}")
        truth = None if answer_key is None else _required(path, number, row, answer_key, "--answer-key")
        truth = truth if truth is None or isinstance(truth, str) else _as_json(path, number, answer_key, truth)
        columns = {"answer": truth}
        if teacher_key is not None:
            text = columns["teacher_response"] = _required(path, number, row, teacher_key, "--teacher-key")
            if not isinstance(text, str) or not text.strip():
                raise DataError.at(str(path), number, f"{teacher_key!r} is not a text with something in it: {text!r}")
        rows.append(
            make_row(
                question,
                truth,
                data_source=data_source or path.stem,
                ability=ability,
                extra_info={"index": number},
                instruction=instruction,
                system_prompt=system_prompt,
                **columns,
            )
        )
    return write_parquet(rows, target)


def _as_json(path: Path, number: int, key: str | None, value: Any) -> str:
    try:
        return json.dumps(value)
    except TypeError as error:  # parquet's decimals, dates, durations and bytes
        raise DataError.at(
            str(path), number, f"{key!r} is a {type(value).__name__}: cast the column to a text or a number"
        ) from error


def _required(path: Path, number: int, row: Mapping[str, Any], key: str, option: str) -> Any:
    if row.get(key) is None:
        raise DataError.at(str(path), number, f"has no {key!r} (its keys: {', '.join(row)}): set {option}")
    if problem := text_problem(row[key], key):
        raise DataError.at(str(path), number, problem)
    return row[key]
