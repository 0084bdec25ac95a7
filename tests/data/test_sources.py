import argparse
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import names

from gspo.commands.data import register
from gspo.data import DataError
from gspo.data.sources import write_gsm8k, write_jsonl
from gspo.shell import pip_install

SOLUTION = "He sold 2*500 = $<<2*500=1000>>1,000.\n#### 1,000"


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser(prog="gspo")
    register(parser.add_subparsers())
    args = parser.parse_args(["data", *arguments])
    code: int = args.run(args)
    return code


@pytest.fixture
def gsm8k(write_rows: Callable[..., Path]) -> Path:
    write_rows({"question": "How much?", "answer": SOLUTION}, name="g/train.jsonl")
    return write_rows({"question": "And now?", "answer": "#### -3"}, name="g/test.jsonl").parent


def test_gsm8k_rows_are_verls(gsm8k: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run("gsm8k", "--source", str(gsm8k), "--out", str(out)) == 0
    prompt = 'How much? Let\'s think step by step and output the final answer after "####".'
    assert pq.read_table(out / "train.parquet").to_pylist() == [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": prompt}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "1000"},
            "extra_info": {"split": "train", "index": 0, "question": "How much?", "answer": SOLUTION},
            "answer": SOLUTION,
            "teacher_response": "He sold 2*500 = $1,000.\n#### 1,000",
        }
    ]
    assert pq.read_table(out / "test.parquet").to_pylist()[0]["reward_model"]["ground_truth"] == "-3"
    assert capsys.readouterr().out.startswith(
        f"{out}/train.parquet: 1 rows\n  prompt: {prompt}\n  ground truth: 1000\n{out}/test.parquet: 1 rows\n"
    )


def test_gsm8k_sources_that_cannot_be_used(
    gsm8k: Path, write_rows: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def error(source: str | Path) -> str:
        with pytest.raises(DataError) as caught:
            write_gsm8k(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    train = write_rows({"question": "a", "answer": "no mark"}, name="g/train.jsonl")
    assert error(gsm8k) == (
        f"{train}, row 0 (counted from 0): the answer has no number after ####: this is not GSM8K's solution"
    )
    write_rows({"question": "a"}, name="g/train.jsonl")
    assert error(gsm8k) == (
        f"{train}, row 0 (counted from 0): has no text 'answer' (its keys: question): name GSM8K's files"
    )
    train.unlink()
    assert error(gsm8k) == f"{train} does not exist; data files in its folder: test.jsonl"
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert error("openai/gsm8k") == (
        "openai/gsm8k is not a folder, and reading it from the Hugging Face hub needs the package `datasets`: "
        f"name a folder with train.jsonl and test.jsonl, or install it by `{pip_install('datasets')}`"
    )


def test_jsonl_of_ones_own(write_rows: Callable[..., Path], tmp_path: Path) -> None:
    path = write_rows({"q": "a", "n": 3, "t": "c"}, {"q": "b", "n": "4", "t": "d"}, name="mine.jsonl")
    out = tmp_path / "deep" / "mine.parquet"
    arguments = ["--prompt-key", "q", "--answer-key", "n", "--teacher-key", "t", "--system-prompt", "s"]
    assert run("jsonl", str(path), "--out", str(out), "--instruction", "Now.", *arguments) == 0
    rows = pq.read_table(out).to_pylist()
    assert rows[0]["prompt"] == [{"role": "system", "content": "s"}, {"role": "user", "content": "a Now."}]
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["3", "4"]
    assert [row["teacher_response"] for row in rows] == ["c", "d"]
    assert {row["data_source"] for row in rows} == {"mine"}
    assert write_jsonl(path, out, prompt_key="q", answer_key=None).example["reward_model"]["ground_truth"] is None


def test_jsonl_that_cannot_be_written(write_rows: Callable[..., Path], tmp_path: Path) -> None:
    path = write_rows({"prompt": "a", "answer": "b"}, {"prompt": " ", "answer": "b"})
    with pytest.raises(DataError, match=r"row 1 \(counted from 0\): 'prompt' is not a text with something in it: ' '$"):
        write_jsonl(path, tmp_path / "x.parquet")
    with pytest.raises(
        DataError, match=r"row 0 \(counted from 0\): has no 'q' \(its keys: prompt, answer\): set --prompt-key$"
    ):
        write_jsonl(path, tmp_path / "x.parquet", prompt_key="q")
    with pytest.raises(DataError) as caught:
        write_jsonl(path, tmp_path / "out")
    assert names(caught, f"{tmp_path}/out is not a .parquet file", f"{tmp_path}/out/train.parquet")


def test_reasoning_gym_splits_are_disjoint_and_the_test_file_does_not_move(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(folder: str, split: str) -> list[dict[str, object]]:
        table: list[dict[str, object]] = pq.read_table(tmp_path / folder / f"{split}.parquet").to_pylist()
        return table

    small = ["--set", "max_terms=2", "--set", "max_digits=1", "--instruction", "Answer only."]
    for folder, size in (("a", "30"), ("b", "20")):
        out = str(tmp_path / folder)
        assert run("reasoning-gym", "chain_sum", "--out", out, "--train-size", size, "--val-size", "10", *small) == 0
    questions = [row["extra_info"]["entry"] for split in ("train", "test") for row in rows("a", split)]  # type: ignore[index]
    asked = [json.loads(text)["question"] for text in questions]
    assert len(set(asked)) == 40
    assert rows("a", "test") == rows("b", "test")
    row = rows("a", "test")[0]
    assert row["data_source"] == "reasoning_gym/chain_sum"
    assert row["prompt"] == [{"role": "user", "content": f"{asked[30]} Answer only."}]
    assert json.loads(row["extra_info"]["task_config"]) == {"max_terms": 2, "max_digits": 1}  # type: ignore[index]
    assert row["answer"] == row["reward_model"]["ground_truth"] == str(eval_sum(asked[30]))  # type: ignore[index]
    assert f"{tmp_path}/a/test.parquet: 10 rows" in capsys.readouterr().out


def eval_sum(question: str) -> int:
    """The sum in "... 4 - 9 =", from left to right."""
    words = [word for word in question.replace("=", " ").split() if word in "+-" or word.isdigit()]
    total, sign = 0, 1
    for word in words:
        if word in "+-":
            sign = 1 if word == "+" else -1
        else:
            total += sign * int(word)
    return total


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chain_sums"], "reasoning-gym has no task 'chain_sums'; the nearest: chain_sum"),
        (["chain_sum", "--set", "terms=2"], "chain_sum has no setting 'terms'; its settings: min_terms, max_terms"),
        (["chain_sum", "--set", "min_terms=0"], "chain_sum refuses these settings ("),
        (
            ["chain_sum", "--set", "max_terms=2", "--set", "max_digits=1", "--train-size", "900"],
            "1000 draws of chain_sum gave only 199 distinct questions with these settings, of the 1000 asked for, and "
            "hardly a new one comes: ask for fewer with --train-size and --val-size, or widen the task with --set "
            "key=value",
        ),
        (["chain_sum", "--train-size", "0"], "train_size=0 must be 1 or more and val_size=100 0 or more"),
    ],
)
def test_reasoning_gym_requests_that_cannot_be_met(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        run("reasoning-gym", *arguments, "--out", str(tmp_path))
    assert str(caught.value).startswith(message)


def test_a_setting_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("reasoning-gym", "chain_sum", "--out", "x", "--set", "min_terms")
    assert "'min_terms' is not KEY=VALUE" in capsys.readouterr().err


def test_cells_that_cannot_be_texts_are_named(write_rows: Callable[..., Path], tmp_path: Path) -> None:
    rows = [{"prompt": "a", "answer": Decimal("1.50")}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    with pytest.raises(DataError) as caught:
        write_jsonl(tmp_path / "rows.parquet", tmp_path / "out.parquet")
    assert names(caught, "rows.parquet, row 0", "'answer'", "Decimal", "cast")
    for change in ({"teacher": 3}, {"teacher": "b \ud83d"}, {"prompt": "b\0"}, {"answer": "b \ud83d"}):
        row = {"prompt": "a", "answer": "1", "teacher": "t"}
        file = write_rows(row, {**row, **change})
        with pytest.raises(DataError) as caught:
            write_jsonl(file, tmp_path / "out.parquet", teacher_key="teacher")
        assert names(caught, "rows.jsonl, row 1", *change)
