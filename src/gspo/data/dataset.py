"""Prompts from files, or from rows in memory, in verl's columns, each row checked and tokenised once.

Columns: the prompt (`data.prompt_key`; the released GAD data calls it `content`, which is taken where the column
`prompt` is not there), `data_source` (a file without the column: the file's name), `reward_model` = {style,
ground_truth}, `extra_info`, the teacher's text (`data.teacher_key`), and tools for the chat template
(`data.tools_key`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, overload

from gspo.config.schema_data import DataConfig
from gspo.data.clock import clock_at
from gspo.data.columns import make_prompt
from gspo.data.memory import are_files, table_of
from gspo.data.messages import Messages, render_prompt, to_messages, to_tools
from gspo.data.rows import DataError, Table, read_tables
from gspo.groups import Prompt

__all__ = ["PromptDataset", "load_dataset"]


@dataclass(frozen=True)
class PromptDataset(Sequence[Prompt]):
    """The prompts in the order of the files, and what was done to get them.

    Attributes:
        prompts: the prompts that are left.
        num_rows: rows read.
        num_filtered: prompts left out for their length.
        num_truncated: prompts cut to the limit.
        longest: tokens of the longest prompt, before any was left out or cut.
        num_spelled: prompts that are lists of messages as JSON text.
    """

    prompts: tuple[Prompt, ...]
    num_rows: int
    num_filtered: int = 0
    num_truncated: int = 0
    longest: int = 0
    num_spelled: int = 0

    def __len__(self) -> int:
        return len(self.prompts)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prompt, ...]: ...
    def __getitem__(self, index: int | slice) -> Prompt | tuple[Prompt, ...]:
        return self.prompts[index]

    def __iter__(self) -> Iterator[Prompt]:
        return iter(self.prompts)

    @property
    def fingerprint(self) -> str:
        """Changes with any token of any prompt and with their order: two data sets with the same one are the same."""
        digest = hashlib.blake2b(digest_size=8)
        for prompt in self.prompts:
            digest.update(f"{prompt.uid}\0{prompt.token_ids}\0".encode())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for the run's log."""
        parts = [f"{len(self)} prompts from {self.num_rows} rows, longest {self.longest} tokens"]
        if self.num_spelled:
            parts.append(f"{self.num_spelled} are JSON text, read as the messages that it spells")
        if self.num_filtered:
            parts.append(f"{self.num_filtered} left out as too long")
        if self.num_truncated:
            parts.append(f"{self.num_truncated} cut to data.max_prompt_length")
        return "; ".join(parts)


def load_dataset(
    files: Any,
    config: DataConfig,
    tokenizer: Any,
    *,
    require_teacher: bool = False,
    text_key: str = "teacher_key",
    max_samples: int = -1,
    label: str = "rows",
    now: datetime | None = None,
) -> PromptDataset:
    """Reads, checks and tokenises the prompts of one or several files, or of rows that a program holds.

    Args:
        files: .parquet, .json or .jsonl files; or a list of dicts, a `datasets.Dataset`, a pandas DataFrame or a
            pyarrow Table.
        config: the `data` section.
        tokenizer: of transformers.
        require_teacher: every row must have a text to learn from.
        text_key: the key of the `data` section that names this text's column: teacher_key or answer_key.
        max_samples: use the first rows only (over all files); -1 uses all.
        now: the moment that a chat template which writes the date takes for now; None: `config.template_date`, and
            the present one where that is not set.
        label: what rows that are no files are called, in messages and in the prompts' uids.

    Raises:
        DataError: a file or a row cannot be used, or no prompt is left.
    """
    tables = read_tables(files, max_samples) if _names_files(files, label) else [table_of(files, label, max_samples)]
    places = [(table, number) for table in tables for number in range(len(table.rows))]
    if now is None and config.template_date is not None:
        now = datetime.fromisoformat(config.template_date)
    with clock_at(now):
        texts = [_text(table, number, config, tokenizer) for table, number in places]
    token_ids = _tokenise(texts, tokenizer)
    prompts, num_filtered, num_truncated = [], 0, 0
    for (table, number), text, ids in zip(places, texts, token_ids, strict=True):
        if not ids:
            raise DataError.at(table.place, number, "the prompt has no tokens: write a text, or remove the row")
        if len(ids) > config.max_prompt_length:
            if config.filter_overlong_prompts:
                num_filtered += 1
                continue
            ids = _truncate(ids, config, table, number)
            text = tokenizer.decode(ids)
            num_truncated += 1
        prompts.append(make_prompt(table, number, config, text, ids, require_teacher, text_key))
    longest = max(map(len, token_ids), default=0)
    if not prompts:
        raise DataError(
            f"all {len(places)} prompts are longer than data.max_prompt_length={config.max_prompt_length} tokens "
            f"(the longest has {longest}): raise it"
        )
    num_spelled = sum(_is_spelled(table, number, config) for table, number in places)
    return PromptDataset(tuple(prompts), len(places), num_filtered, num_truncated, longest, num_spelled)


def _names_files(given: Any, label: str) -> bool:
    """Whether files are given; an empty list is of no files, but of no rows where it has a label of its own."""
    return are_files(given) and (label == "rows" or isinstance(given, str) or bool(given))


def _prompt_column(table: Table, key: str) -> str:
    if key in table.columns:
        return key
    if key == "prompt" and "content" in table.columns:
        return "content"
    raise DataError(
        f"{table.place} has no column {key!r}; its columns are {', '.join(table.columns)}: "
        "set data.prompt_key to the prompt's"
    )


def _prompt_value(table: Table, number: int, config: DataConfig) -> Any:
    return table.rows[number].get(_prompt_column(table, config.prompt_key))


def _messages(table: Table, number: int, config: DataConfig) -> Messages | str:
    value = _prompt_value(table, number, config)
    try:
        return to_messages(value, config.system_prompt)
    except ValueError as error:
        raise DataError.at(table.place, number, str(error)) from error


def _is_spelled(table: Table, number: int, config: DataConfig) -> bool:
    """Whether a prompt is a text that was read as messages."""
    return isinstance(_prompt_value(table, number, config), str) and isinstance(_messages(table, number, config), list)


def _text(table: Table, number: int, config: DataConfig, tokenizer: Any) -> str:
    prompt = _messages(table, number, config)
    key = config.tools_key
    if key is not None and key not in table.columns and key != DataConfig.tools_key:
        raise DataError(f"{table.place} has no column {key!r}: set data.tools_key to the tools', or null for none")
    try:
        tools = None if key is None else to_tools(table.rows[number].get(key), key)
        return render_prompt(prompt, tokenizer, config.apply_chat_template_kwargs, config.system_prompt, tools)
    except ValueError as error:
        raise DataError.at(table.place, number, str(error)) from error


def _tokenise(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """All texts at once, which the fast tokenizers do in parallel.

    A chat template writes its own start token, so none is added to it; a plain text gets the tokenizer's own, unless it
    starts with one. An end token that the tokenizer appends is taken off: the model is to go on from the prompt.
    """
    if not texts:
        return []
    if tokenizer.chat_template is not None:
        encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return encoded
    start, end = tokenizer.bos_token, tokenizer.eos_token
    encoded = tokenizer(texts, verbose=False)["input_ids"]
    for row, text in enumerate(texts):
        if start and text.startswith(start):
            encoded[row] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        elif end and encoded[row] and encoded[row][-1] == tokenizer.eos_token_id and not text.endswith(end):
            encoded[row] = encoded[row][:-1]
    return encoded


def _truncate(ids: list[int], config: DataConfig, table: Table, number: int) -> list[int]:
    limit = config.max_prompt_length
    if config.truncation == "left":
        return ids[-limit:]
    if config.truncation == "right":
        return ids[:limit]
    raise DataError.at(
        table.place,
        number,
        f"the prompt has {len(ids)} tokens, more than data.max_prompt_length={limit}: raise it, or set "
        "data.filter_overlong_prompts=true to leave such prompts out, or data.truncation=left or right to cut them",
    )
