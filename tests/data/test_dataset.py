from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import names

from gspo.config.schema_data import DataConfig
from gspo.data import DataError, load_dataset

Make = Callable[..., Any]


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def error_of(path: Path, tokenizer: Any, require_teacher: bool = False, **settings: Any) -> str:
    with pytest.raises(DataError) as caught:
        load_dataset(path, DataConfig(**settings), tokenizer, require_teacher=require_teacher)
    return str(caught.value)


def test_every_column_reaches_its_prompt(tmp_path: Path, make_tokenizer: Make) -> None:
    row = {
        "data_source": "s",
        "prompt": [{"role": "system", "content": "c"}, *user("a b")],
        "reward_model": {"style": "rule", "ground_truth": "7"},
        "extra_info": {"index": 3},
        "teacher_response": "t",
    }
    pq.write_table(
        pa.Table.from_pylist([row, {**row, "prompt": user("d"), "extra_info": None}]), tmp_path / "x.parquet"
    )
    tokenizer = make_tokenizer()
    first, second = load_dataset(tmp_path / "x.parquet", DataConfig(), tokenizer)
    assert first.uid == "x.parquet:0"
    assert first.text == "<s>system c user a b assistant"
    assert tokenizer.convert_ids_to_tokens(first.token_ids) == ["<s>", "system", "c", "user", "a", "b", "assistant"]
    assert (first.data_source, first.ground_truth, first.extra_info) == ("s", "7", {"index": 3})
    assert first.teacher_response == "t"
    assert (second.uid, second.text, second.extra_info) == ("x.parquet:1", "<s>user d assistant", {})


def test_only_the_template_writes_the_start_token(write_rows: Make, make_tokenizer: Make) -> None:
    (prompt,) = load_dataset(write_rows({"prompt": user("a")}), DataConfig(), make_tokenizer(wrap=True))
    assert prompt.token_ids == (0, 3, 7, 4)


def test_plain_texts(write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"prompt": "a b"}, {"prompt": "<s> a"}, {"prompt": "a </s>"})
    templated = load_dataset(path, DataConfig(), make_tokenizer())
    assert templated[0].text == "<s>user a b assistant"
    plain = load_dataset(path, DataConfig(), make_tokenizer(chat_template=None))
    assert [prompt.token_ids for prompt in plain] == [(7, 8), (0, 7), (7, 1)]
    # A tokenizer that adds a start token adds one only, and its end token is not the prompt's.
    wrapped = load_dataset(path, DataConfig(), make_tokenizer(chat_template=None, wrap=True))
    assert [prompt.token_ids for prompt in wrapped] == [(0, 7, 8), (0, 7), (0, 7, 1, 1)]


def test_template_arguments_and_system_prompt(write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows(
        {"prompt": user("a")}, {"prompt": "b"}, {"prompt": [{"role": "system", "content": "c"}, *user("d")]}
    )
    config = DataConfig(system_prompt="h", apply_chat_template_kwargs={"mood": "calm"})
    assert [prompt.text for prompt in load_dataset(path, config, make_tokenizer())] == [
        "<s>system h user a assistant calm",
        "<s>system h user b assistant calm",
        "<s>system c user d assistant calm",
    ]


def test_the_released_gad_data(write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"content": user("a"), "teacher_response": "b"}, name="gad.jsonl")
    (prompt,) = load_dataset(path, DataConfig(), make_tokenizer(), require_teacher=True)
    assert (prompt.text, prompt.teacher_response, prompt.data_source) == ("<s>user a assistant", "b", "gad")
    assert prompt.ground_truth is None


def test_files_of_the_same_name_have_distinct_uids(write_rows: Make, make_tokenizer: Make) -> None:
    paths = [write_rows({"prompt": "a"}, name="x/t.jsonl"), write_rows({"prompt": "b"}, name="y/t.jsonl")]
    dataset = load_dataset(paths, DataConfig(), make_tokenizer())
    assert [prompt.uid for prompt in dataset] == ["x/t.jsonl:0", "y/t.jsonl:0"]
    assert [prompt.uid for prompt in load_dataset(paths, DataConfig(), make_tokenizer(), max_samples=1)] == [
        "x/t.jsonl:0"
    ]


def test_overlong_prompts(write_rows: Make, make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(chat_template=None)
    path = write_rows({"prompt": "a b c d"}, {"prompt": "a b"})
    filtered = load_dataset(path, DataConfig(max_prompt_length=3, filter_overlong_prompts=True), tokenizer)
    assert [prompt.uid for prompt in filtered] == ["rows.jsonl:1"]
    assert filtered.summary() == "1 prompts from 2 rows, longest 4 tokens; 1 left out as too long"
    left = load_dataset(path, DataConfig(max_prompt_length=3, truncation="left"), tokenizer)
    assert (left[0].text, left[0].token_ids, left.num_truncated) == ("b c d", (8, 9, 10), 1)
    assert left.summary() == "2 prompts from 2 rows, longest 4 tokens; 1 cut to data.max_prompt_length"
    right = load_dataset(path, DataConfig(max_prompt_length=3, truncation="right"), tokenizer)
    assert (right[0].text, right[0].token_ids) == ("a b c", (7, 8, 9))
    assert error_of(path, tokenizer, max_prompt_length=3) == (
        f"{path}, row 0 (counted from 0): the prompt has 4 tokens, more than data.max_prompt_length=3: raise it, or "
        "set data.filter_overlong_prompts=true to leave such prompts out, or data.truncation=left or right to cut them"
    )
    assert error_of(path, tokenizer, max_prompt_length=1, filter_overlong_prompts=True) == (
        "all 2 prompts are longer than data.max_prompt_length=1 tokens (the longest has 4): raise it"
    )


def test_missing_prompt_column(write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"question": "a", "answer": "b"})
    assert error_of(path, make_tokenizer()) == (
        f"{path} has no column 'prompt'; its columns are question, answer: set data.prompt_key to the prompt's"
    )
    (prompt,) = load_dataset(path, DataConfig(prompt_key="question"), make_tokenizer())
    assert prompt.text == "<s>user a assistant"


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (None, "the prompt is a null: it must be a list of {role, content}, or a text"),
        (3, "the prompt is a int: it must be a list of {role, content}, or a text"),
        (" ", "the prompt is empty: write a text, or remove the row"),
        ([], "the prompt is an empty list: it needs at least one message, or remove the row"),
        (["a"], "message 0 of the prompt is a str: it must be {role, content}"),
        ([{"role": "user"}], "message 0 of the prompt has no content (its keys: role): add it"),
        ([{"content": "a"}], "message 0 of the prompt has no role (its keys: content): add it"),
        ([*user("a"), *user(" ")], "the content of message 1 of the prompt is empty: write it, or remove the row"),
        ([{"role": "user", "content": ["a"]}], "the content of message 0 of the prompt is a list: write a text"),
        (
            [*user("a"), {"role": "assistant", "content": "b"}],
            "the prompt ends with the assistant's message: end it with the user's",
        ),
        (
            [{"role": "judge", "content": "a"}],
            "the chat template refuses the roles [judge] (unknown role): change the messages, "
            "or set actor_rollout_ref.model.chat_template",
        ),
    ],
)
def test_bad_prompts(prompt: Any, problem: str, write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"prompt": "a"}, {"prompt": prompt})
    assert error_of(path, make_tokenizer()) == f"{path}, row 1 (counted from 0): {problem}"


def test_conversations_need_a_chat_template(write_rows: Make, make_tokenizer: Make) -> None:
    tokenizer = make_tokenizer(chat_template=None)
    path = write_rows({"prompt": user("a")})
    assert error_of(path, tokenizer) == (
        f"{path}, row 0 (counted from 0): a list of messages needs a chat template and the tokenizer has none: "
        "set actor_rollout_ref.model.chat_template, or make the prompt column plain text"
    )
    path = write_rows({"prompt": "a"})
    assert error_of(path, tokenizer, system_prompt="h") == (
        f"{path}, row 0 (counted from 0): a system prompt needs a chat template and the tokenizer has none: "
        "set actor_rollout_ref.model.chat_template, or make the prompt column plain text and unset data.system_prompt"
    )


def test_a_prompt_without_tokens(write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"prompt": "a"})
    assert error_of(path, make_tokenizer(chat_template="{{ '' }}")) == (
        f"{path}, row 0 (counted from 0): the prompt has no tokens: write a text, or remove the row"
    )


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"data_source": None}, "data_source is None: it must be a text, which names the data"),
        ({"reward_model": "7"}, "reward_model is a str: it must be {style, ground_truth}, or null"),
        ({"extra_info": [1]}, "extra_info is a list: it must be an object, or null"),
        (
            {"videos": [], "images": [{"path": "a.png"}, {"path": "b.png"}]},
            "images has 2 beside the text, and models of texts are trained only: remove the row",
        ),
        (
            {},
            "there is no column 'teacher_response' with a text to learn from (the columns: prompt): "
            "add it, or set data.teacher_key; GAD learns from a teacher's text, "
            "critic.enable=false trains on rewards alone",
        ),
        ({"teacher_response": None}, "teacher_response is null: write the text, or remove the row"),
        ({"teacher_response": " "}, "teacher_response is empty: write the text, or remove the row"),
        ({"teacher_response": 3}, "teacher_response is a int: it must be a text"),
    ],
)
def test_bad_columns(columns: dict[str, Any], problem: str, write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"prompt": "a", **columns})
    expected = f"{path}, row 0 (counted from 0): {problem}"
    assert error_of(path, make_tokenizer(), require_teacher=True) == expected


def test_a_teacher_is_optional_where_none_is_needed(write_rows: Make, make_tokenizer: Make) -> None:
    path = write_rows({"prompt": "a", "teacher_response": ""}, {"prompt": "a"})
    assert [prompt.teacher_response for prompt in load_dataset(path, DataConfig(), make_tokenizer())] == [None, None]


@pytest.mark.parametrize(
    "value", [Decimal("7.50"), date(2020, 1, 2), timedelta(seconds=3), b"7"], ids=lambda value: type(value).__name__
)
def test_ground_truths_of_types_that_only_parquet_has(value: Any, tmp_path: Path, make_tokenizer: Make) -> None:
    rows = [{"prompt": "a", "reward_model": {"ground_truth": truth}} for truth in (None, value)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    error = error_of(tmp_path / "x.parquet", make_tokenizer())
    assert names(error, "x.parquet, row 1", "reward_model.ground_truth", type(value).__name__, "cast")
    assert load_dataset(rows, DataConfig(), make_tokenizer())[1].ground_truth == value
