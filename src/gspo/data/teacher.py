"""Teacher responses for a file of prompts, for distillation from a teacher that can only be read.

Every response goes into a journal in the output's folder as soon as it arrives; the output is written from the
journal at the end. So a run that was killed goes on where it stopped, with no response lost and none twice.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gspo.config.paths import expanded
from gspo.config.secrets import masked
from gspo.config.texts import text_problem
from gspo.data.messages import Messages, to_messages, to_tools
from gspo.data.rows import DataError, Table, read_table
from gspo.data.teacher_client import Endpoint, EndpointClient, Refused
from gspo.data.teacher_journal import Journal, TeacherResponse
from gspo.signals import first_done

__all__ = ["Collected", "collect_teacher"]

_SECONDS_BETWEEN_NEWS = 10.0
_MOST_SHOWN = 20  # failures printed; the journal has them all


@dataclass(frozen=True)
class Collected:
    """What a collection wrote, and what it lacks.

    Attributes:
        path: the parquet file; not written if there is no response at all.
        num_rows: rows in it.
        num_cut: responses that ended at the limit of tokens.
        failures: (row, sample, problem) of the responses that are missing.
        journal: the journal's path.
    """

    path: Path
    num_rows: int
    num_cut: int
    failures: tuple[tuple[int, int, str], ...]
    journal: Path

    def __str__(self) -> str:
        lines = [f"{self.path}: {self.num_rows} rows" if self.num_rows else f"{self.path}: not written, no response"]
        if self.num_cut:
            lines.append(f"  {self.num_cut} responses were cut at the limit of tokens (teacher_finish_reason length)")
        lines += [f"  row {row}, response {sample}: {why}" for row, sample, why in self.failures[:_MOST_SHOWN]]
        if len(self.failures) > _MOST_SHOWN:
            lines.append(f"  and {len(self.failures) - _MOST_SHOWN} more, see {self.journal}")
        if self.failures:
            lines.append(f"  {len(self.failures)} responses are missing: the same command asks for them again")
        return "\n".join(lines)


def collect_teacher(
    file: str | Path,
    out: str | Path,
    endpoint: Endpoint,
    *,
    n: int = 1,
    concurrency: int = 8,
    system_prompt: str | None = None,
    prompt_key: str = "prompt",
    teacher_key: str = "teacher_response",
    tools_key: str | None = "tools",
) -> Collected:
    """Asks for `n` responses to each prompt and writes the file's rows with them, `n` rows a prompt, in its order.

    Columns added: `teacher_key` (the text), teacher_sample (0 to n - 1) and teacher_finish_reason. A response that the
    endpoint refuses is left out and reported.

    Args:
        file: .parquet, .json or .jsonl with the prompts, in the columns of `gspo.data.dataset`.
        out: the .parquet file to write; the journal is in its folder.
        endpoint: which service to ask, and how.
        n: responses to each prompt, each from a request of its own.
        concurrency: requests under way at once.
        system_prompt: put before each prompt that has no system message.
        prompt_key: the prompt's column.
        teacher_key: the column to write.
        tools_key: column of the tools that a request offers, where there is one; None: none.

    Raises:
        DataError: the file, a row or an argument cannot be used, or no request can succeed (a wrong key or address).
    """
    source, target = expanded(file, "FILE"), expanded(out, "--out")
    table = read_table(source)
    _check(target, table, n, concurrency, endpoint, prompt_key, teacher_key, tools_key)
    prompts = [_messages(table, row, prompt_key, system_prompt) for row in range(len(table.rows))]
    tools = [_tools(table, row, tools_key) for row in range(len(table.rows))]
    _say_spelled(table, prompts, prompt_key)
    columns = _columns(table)  # before the first request: what cannot be written must not be found at the end
    settings = _settings(source, endpoint, system_prompt, prompt_key)
    if any(tools):
        settings["tools_key"] = tools_key
    with (
        closing(EndpointClient(endpoint, _say)) as client,
        closing(Journal(target.with_name(target.name + ".journal.jsonl"), settings)) as journal,
    ):
        wanted = [(row, sample) for row in range(len(prompts)) for sample in range(n)]
        left = [place for place in wanted if place not in journal.responses]
        if len(left) < len(wanted):
            _say(f"{len(wanted) - len(left)} responses are in {journal.path}, {len(left)} left")
        failures = _ask_all(left, list(zip(prompts, tools, strict=True)), client, journal, concurrency)
        kept = {place: journal.responses[place] for place in wanted if place in journal.responses}
        if kept:
            _write(columns, kept, teacher_key, target)
    num_cut = sum(response.finish_reason == "length" for response in kept.values())
    return Collected(target, len(kept), num_cut, tuple(sorted(failures)), journal.path)


def _say(line: str) -> None:
    print(f"gspo: {line}", file=sys.stderr, flush=True)


def _check(
    target: Path,
    table: Table,
    n: int,
    concurrency: int,
    endpoint: Endpoint,
    prompt_key: str,
    teacher_key: str,
    tools_key: str | None,
) -> None:
    if target.suffix != ".parquet":
        raise DataError(f"{target} is not a .parquet file: name the file to write, such as {target / 'train.parquet'}")
    if table.path is not None and target.resolve() == table.path.resolve():
        raise DataError(f"--out {target} is the file of the prompts: name another")
    if n < 1 or concurrency < 1:
        raise DataError(f"--n is {n} and --concurrency {concurrency}: give 1 or more")
    if n > 1 and endpoint.temperature == 0:
        raise DataError(f"--n {n} with --temperature 0 asks for the same response {n} times: raise the temperature")
    if prompt_key not in table.columns:
        raise DataError(
            f"{table.path} has no column {prompt_key!r}; its columns are {', '.join(table.columns)}: set --prompt-key"
        )
    if tools_key not in (None, "tools", *table.columns):
        raise DataError(f"{table.path} has no column {tools_key!r}: set --tools-key to the tools', or leave it out")
    for column in (teacher_key, "teacher_sample", "teacher_finish_reason"):
        if column in table.columns:
            fix = "set --teacher-key to another name" if column == teacher_key else "rename or remove it"
            raise DataError(f"{table.path} has a column {column!r} already: {fix}")


def _messages(table: Table, row: int, prompt_key: str, system_prompt: str | None) -> Messages:
    try:
        messages = to_messages(table.rows[row].get(prompt_key), system_prompt)
        if isinstance(messages, str):
            messages = to_messages([{"role": "user", "content": messages}], system_prompt)
    except ValueError as error:
        raise DataError.at(str(table.path), row, str(error)) from error
    assert isinstance(messages, list)
    return messages


def _tools(table: Table, row: int, key: str | None) -> list[dict[str, Any]] | None:
    if key is None:
        return None
    try:
        return to_tools(table.rows[row].get(key), key)
    except ValueError as error:
        raise DataError.at(str(table.path), row, str(error)) from error


def _say_spelled(table: Table, prompts: Sequence[Messages], prompt_key: str) -> None:
    """Says how many prompts are messages as JSON text: of any other text the last message is the whole."""
    texts = [row[prompt_key] for row in table.rows]
    pairs = zip(texts, prompts, strict=True)
    spelled = sum(isinstance(text, str) and messages[-1]["content"] != text for text, messages in pairs)
    if spelled:
        _say(f"{spelled} prompts are JSON text, read as the messages that it spells")


def _settings(source: Path, endpoint: Endpoint, system_prompt: str | None, prompt_key: str) -> dict[str, Any]:
    """What a response depends on. The number of responses is not among it: it may be raised later."""
    return {
        "prompts_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "prompt_key": prompt_key,
        "system_prompt": system_prompt,
        "base_url": endpoint.base_url,
        "model": endpoint.model,
        "temperature": endpoint.temperature,
        "max_tokens": endpoint.max_tokens,
        "extra": masked(dict(endpoint.extra or {})),
    }


def _ask_all(
    places: Sequence[tuple[int, int]],
    asked: Sequence[tuple[Messages, list[dict[str, Any]] | None]],
    client: EndpointClient,
    journal: Journal,
    concurrency: int,
) -> list[tuple[int, int, str]]:
    """Asks for every place (row, sample) and returns the failures. An error or Ctrl-C stops what is under way."""
    failures: list[tuple[int, int, str]] = []

    def ask(row: int, sample: int) -> None:
        try:
            journal.add(row, sample, client.ask(*asked[row]))
        except Refused as refusal:
            journal.add_error(row, sample, str(refusal))
            failures.append((row, sample, str(refusal)))

    pending, waiting = iter(places), set[Future[None]]()
    num_done, last_news = 0, time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            waiting |= {pool.submit(ask, *place) for place in islice(pending, concurrency)}
            while waiting:
                done, waiting = first_done(waiting)
                for future in done:
                    future.result()
                waiting |= {pool.submit(ask, *place) for place in islice(pending, len(done))}
                num_done += len(done)
                if time.monotonic() - last_news > _SECONDS_BETWEEN_NEWS:
                    last_news = time.monotonic()
                    _say(f"{num_done} of {len(places)} requests done, {len(failures)} failed")
        except BaseException:
            client.stop()
            raise
    return failures


def _columns(table: Table) -> pa.Table:
    if table.path is not None and table.path.suffix == ".parquet":
        with pq.ParquetFile(table.path) as file:
            return file.read()
    arrays = {name: _array(table, name) for name in table.columns}
    # Parquet has no object without fields; the readers take null as an empty one.
    empty = [name for name, array in arrays.items() if pa.types.is_struct(array.type) and not array.type.num_fields]
    return pa.table(arrays | {name: pa.nulls(len(table.rows)) for name in empty})


def _array(table: Table, name: str) -> pa.Array:
    values = [row.get(name) for row in table.rows]
    for number, value in enumerate(values):
        if problem := text_problem(value, name, nul=False):
            raise DataError.at(table.place, number, problem)
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError) as error:
        raise DataError(
            f"{table.path}, column {name!r} cannot be written as parquet ({' '.join(str(error).split())}): give it one "
            "type"
        ) from error


def _write(
    columns: pa.Table, responses: Mapping[tuple[int, int], TeacherResponse], teacher_key: str, target: Path
) -> None:
    """The rows with their responses, whole or not at all: written aside, then put in place."""
    written = columns.take(pa.array([row for row, _ in responses], pa.int64()))
    texts = [response.text for response in responses.values()]
    reasons = [response.finish_reason for response in responses.values()]
    written = written.append_column(teacher_key, pa.array(texts, pa.string()))
    written = written.append_column("teacher_sample", pa.array([sample for _, sample in responses], pa.int64()))
    written = written.append_column("teacher_finish_reason", pa.array(reasons, pa.string()))
    aside = target.with_name(f".{target.name}.writing")
    with open(aside, "wb") as file:
        pq.write_table(written, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, target)
