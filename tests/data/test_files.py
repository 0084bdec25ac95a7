"""Files that hold no rows as they stand: what each is, and a remedy that works."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from messages import names

from gspo.cli import main
from gspo.data import DataError
from gspo.data.delimited import read_any_table
from gspo.data.files import check_path
from gspo.data.rows import read_table
from gspo.shell import environment_command, gspo_command


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"prompt": "a"}\n')
    return tmp_path


def said(name: str) -> str:
    with pytest.raises(DataError) as caught:
        check_path(Path(name))
    assert names(caught, name)
    return str(caught.value)


def test_a_table_of_text_is_made_into_rows_by_the_command_that_the_message_has(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "my rows.csv").write_text('\ufeffprompt,answer\n"1, 1 and ""1""?",3\n\n2?,two\n', encoding="utf-8")
    command = said("my rows.csv").split("`")[1]
    program = gspo_command()
    assert command.startswith(program)
    assert main(shlex.split(command.removeprefix(program))) == 0
    rows = pq.read_table(here / "my rows.parquet").to_pylist()
    assert [row["prompt"][0]["content"] for row in rows] == ['1, 1 and "1"?', "2?"]
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["3", "two"]
    assert "my rows.parquet: 2 rows" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("prompt,answer\na,b,c\n", ["row 0", "3 cells", "2 columns", "quotes"]),
        ("prompt,answer\na,b\nc\n", ["row 1", "1 cells"]),
        ("prompt,prompt\na,b\n", ["2 columns 'prompt'", "rename"]),
        ("prompt,answer\n", ["no rows", "first line"]),
        ('prompt\n"open\n', ["csv", "write it again"]),
    ],
)
def test_a_table_of_text_that_is_none(here: Path, content: str, parts: list[str]) -> None:
    (here / "rows.csv").write_text(content)
    with pytest.raises(DataError) as caught:
        read_any_table(here / "rows.csv")
    assert names(caught, here / "rows.csv", *parts)


def test_tabs_part_the_cells_of_a_tsv_and_an_empty_cell_is_absent(here: Path) -> None:
    (here / "rows.tsv").write_text("prompt\tanswer\na, b\t\n")
    assert read_any_table(here / "rows.tsv").rows == [{"prompt": "a, b"}]


def test_a_data_set_of_the_hub_is_not_a_file() -> None:
    gsm8k = gspo_command("data", "gsm8k", "--source", "openai/gsm8k", "--out", "data/gsm8k")
    assert f"`{gsm8k}`" in said("openai/gsm8k")
    assert f"`{gsm8k}`" in said("gsm8k")
    fetch = environment_command("hf", "download", "org/name", "--repo-type", "dataset", "--local-dir", "data/name")
    assert f"`{fetch}`" in said("org/name")
    assert "hub" not in said("/data/train")


@pytest.mark.parametrize("name", ["https://huggingface.co/datasets/org/name", "hf://datasets/org/name"])
def test_an_address_of_the_hub_is_its_data_set(name: str) -> None:
    with pytest.raises(DataError) as caught:
        check_path(Path(name))
    assert names(caught, name, "hf download org/name --repo-type dataset")


def test_what_is_no_file_of_this_machine() -> None:
    with pytest.raises(DataError) as caught:
        check_path(Path("https://example.org/train.parquet"))
    assert names(caught, "https://example.org/train.parquet", "fetch it")
    assert names(said("None"), "[]")


def test_a_file_that_cannot_be_written_is_named(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "train.jsonl").write_text('{"prompt": "a", "answer": "b"}\n')
    assert main(["data", "jsonl", "train.jsonl", "--out", "/proc/x.parquet"]) == 1
    assert names(capsys.readouterr().err, "gspo: error: /proc/x.parquet: ")


def test_a_saved_data_set_is_written_as_a_file_by_its_own_library(here: Path) -> None:
    (here / "one").mkdir()
    (here / "one" / "dataset_info.json").write_text("{}")
    assert "datasets.load_from_disk('one').to_parquet('one.parquet')" in said("one")
    (here / "both").mkdir()
    (here / "both" / "dataset_dict.json").write_text("{}")
    assert "datasets.load_from_disk('both')['train'].to_parquet('both.parquet')" in said("both")


def test_other_names(here: Path) -> None:
    assert names(said("tran.jsonl"), "did you mean train.jsonl?")
    assert names(said("other.jsonl"), "data files in its folder: train.jsonl")
    (here / "a.parquet").write_bytes(b"x")
    assert names(said("*.parquet"), "[a.parquet]")
    assert names(said("*.json"), "none that fits")
    (here / "rows.jsonl.gz").write_bytes(b"x")
    assert names(said("rows.jsonl.gz"), "unpack")
    (here / "notes.txt").write_text("x")
    assert names(said("notes.txt"), "convert")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ({"version": 1, "data": [{"prompt": "a"}, {"prompt": "b"}]}, ["key 'data'", "2 rows"]),
        ({"prompt": ["a", "b"], "answer": ["1", "2"]}, ["columns (prompt, answer)", "[{...}, {...}]"]),
        ({"prompt": "a", "answer": "1"}, ["one object (prompt, answer)", ".jsonl"]),
        ("text", ["a str", "[{...}, {...}]"]),
    ],
)
def test_a_json_file_that_is_no_list(here: Path, content: object, parts: list[str]) -> None:
    path = here / "rows.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError) as caught:
        read_table(path)
    assert names(caught, path, *parts)
