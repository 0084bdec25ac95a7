"""Conversations as people keep them: with calls of tools, as JSON text, with texts that cannot be encoded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import names

from gspo.config.schema_data import DataConfig
from gspo.data import DataError, load_dataset
from gspo.data.memory import table_of
from gspo.data.messages import to_messages, to_tools

Make = Callable[..., Any]
# Writes whatever a message has, with its nulls.
ALL = "{% for m in messages %}{{ m | tojson }}\n{% endfor %}{{ 'tools: ' + (tools | tojson) if tools else '' }}"
USER = {"role": "user", "content": "a"}


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def texts(rows: Any, tokenizer: Any, **settings: Any) -> list[str]:
    return [prompt.text for prompt in load_dataset(rows, DataConfig(**settings), tokenizer)]


def error_of(rows: Any, tokenizer: Any, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(rows, DataConfig(answer_key="answer"), tokenizer, **settings)
    return str(caught.value)


def test_every_format_gives_a_conversation_with_tools_the_same_prompt(
    tmp_path: Path, make_tokenizer: Make, write_rows: Make
) -> None:
    nested = {"place": {"city": "Oslo"}, "stops": [{"at": 1}, {"by": 2}]}
    rows = [
        {
            "prompt": [
                USER,
                {"role": "assistant", "content": "b", "tool_calls": [call("f", **nested), call("g", x=1)]},
                {"role": "tool", "content": "c", "name": "f"},
            ],
            "tools": [{"function": {"name": "f", "parameters": {"x": {"enum": ["a"]}}}}],
        },
        {"prompt": [USER], "tools": [{"function": {"name": "g", "parameters": {"y": {"type": "int"}}}}]},
    ]
    tokenizer = make_tokenizer(chat_template=ALL)
    expected = [
        "".join(json.dumps(message, sort_keys=True) + "\n" for message in row["prompt"])
        + f"tools: {json.dumps(row['tools'], sort_keys=True)}"
        for row in rows
    ]
    table = pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "rows.parquet")
    for given in (write_rows(*rows), tmp_path / "rows.parquet", rows, table):
        read = texts(given, tokenizer)
        lines = [[json.loads(line.removeprefix("tools: ")) for line in text.splitlines()] for text in read]
        assert lines == [[json.loads(line.removeprefix("tools: ")) for line in text.splitlines()] for text in expected]


@pytest.mark.parametrize("absent", [{}, {"content": None}, {"content": ""}])
def test_a_call_needs_no_words_and_a_tool_may_say_nothing(absent: dict[str, Any]) -> None:
    called = {"role": "assistant", "tool_calls": [call("f")], **absent}
    answer = {"role": "tool", **absent}
    read = to_messages([USER, called, answer])
    assert read == [USER, {**called, "content": ""}, {"role": "tool", "content": ""}]
    with pytest.raises(ValueError, match="message 1 of the prompt"):
        to_messages([USER, {"role": "assistant", "tool_calls": [], **absent}, USER])


def test_a_null_in_a_list_stays() -> None:
    message = {"role": "assistant", "content": "b", "tool_calls": [call("f", x=[1, None], y=None)]}
    read = to_messages([USER, message, USER])
    assert read[1]["tool_calls"] == [call("f", x=[1, None])]  # type: ignore[index]


@pytest.mark.parametrize("calls", ["f()", [3], {"f": 1}])
def test_calls_that_are_none(calls: Any) -> None:
    with pytest.raises(ValueError, match="tool_calls of message 0") as caught:
        to_messages([{"role": "assistant", "content": "b", "tool_calls": calls}, USER])
    assert names(caught, "list of objects")


def test_messages_as_json_text_are_read_and_counted(make_tokenizer: Make) -> None:
    messages = [{"role": "system", "content": "c"}, USER]
    rows = [{"prompt": messages}, {"prompt": json.dumps(messages)}, {"prompt": f" {json.dumps(messages)}\n"}]
    data = load_dataset(rows, DataConfig(), make_tokenizer())
    assert [prompt.text for prompt in data] == ["<s>system c user a assistant"] * 3
    assert (data.num_spelled, data.summary().count("2 are JSON text")) == (2, 1)


@pytest.mark.parametrize(
    "text",
    ["[3, 1, 2]", "[a", "{}", "[]", '[{"role": "admin", "name": "b"}]', '[{"role": "user"', "[" * 50_000, "[INST] a"],
)
def test_other_texts_in_brackets_stay_texts(text: str) -> None:
    assert to_messages(text) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[{'role': 'user', 'content': 'a'}]", ("JSON", "json.dumps")),
        ('{"role": "user", "content": "a"}', ("dict", "list of {role, content}")),
        ('[{"role": "user", "content": "a"}, {"role": "user"}]', ("message 1", "content")),
        ('[{"role": "user", "content": "\\ud83d"}]', ("[0].content", "\\ud83d")),
    ],
)
def test_texts_that_nearly_are_messages(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="the prompt") as caught:
        to_messages(text)
    assert names(caught, *parts)


HALF = "b \ud83d"
BAD_ROWS = [
    ({"prompt": HALF}, "the prompt"),
    ({"prompt": [{"role": "user", "content": HALF}]}, "the prompt[0].content"),
    ({"prompt": "a\0"}, "the prompt"),
    ({"answer": HALF}, "answer"),
    ({"answer": "a\0"}, "answer"),
    ({"reward_model": {"ground_truth": HALF}}, "reward_model.ground_truth"),
    ({"extra_info": {"deep": [{"x": HALF}]}}, "extra_info.deep[0].x"),
    ({"data_source": HALF}, "data_source"),
    ({"tools": [{"name": HALF}]}, "tools[0].name"),
]


@pytest.mark.parametrize(("change", "place"), BAD_ROWS)
def test_texts_that_cannot_be_encoded_are_named_in_files_and_in_memory(
    change: dict[str, Any], place: str, write_rows: Make, make_tokenizer: Make
) -> None:
    row = {"data_source": "s", "prompt": "a", "answer": "b"}
    rows = [row, {**row, **change}]
    for given, where in ((write_rows(*rows), "rows.jsonl, row 1"), (rows, "row 1")):
        error = error_of(given, make_tokenizer(), text_key="answer_key", require_teacher=True)
        assert names(error, where, place)


def test_tools_reach_the_template_from_json_text_and_can_be_left_out(make_tokenizer: Make) -> None:
    tokenizer, tools = make_tokenizer(chat_template=ALL), [{"name": "f"}]
    prompt = '{"content": "a", "role": "user"}\n'
    for given in (tools, json.dumps(tools)):
        (read,) = texts([{"prompt": "a", "tools": given}], tokenizer)
        assert [json.loads(line.removeprefix("tools: ")) for line in read.splitlines()] == [USER, tools]
    for given in (None, [], "[]"):
        (read,) = texts([{"prompt": "a", "tools": given}], tokenizer)
        assert json.loads(read) == json.loads(prompt)
    assert json.loads(texts([{"prompt": "a", "tools": "hammer"}], tokenizer, tools_key=None)[0]) == json.loads(prompt)


def test_tools_that_cannot_be_used(make_tokenizer: Make) -> None:
    for given in ("hammer", 3, [3], {"name": "f"}):
        with pytest.raises(ValueError, match=r"data\.tools_key=null") as caught:
            to_tools(given, "tools")
        assert names(caught, "tools")
    with pytest.raises(DataError) as error:
        load_dataset([{"prompt": "a"}], DataConfig(tools_key="mine"), make_tokenizer())
    assert names(error, "mine", "data.tools_key")
    plain = error_of([{"prompt": "a", "tools": [{"name": "f"}]}], make_tokenizer(chat_template=None))
    assert names(plain, "row 0", "tools", "actor_rollout_ref.model.chat_template")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "twice.parquet")
    for given in (
        lambda: load_dataset(tmp_path / "twice.parquet", DataConfig(), None),
        lambda: table_of(table, "rows"),
    ):
        with pytest.raises(DataError) as caught:
            given()
        assert names(caught, "2 columns", "'prompt'")
