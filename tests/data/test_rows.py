from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from messages import names

from gspo.data.rows import DataError, read_table, read_tables

ROWS = [{"prompt": "a", "n": 1}, {"prompt": "b", "n": None}]


def test_the_three_kinds_of_file_give_the_same_rows(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    (tmp_path / "x.json").write_text('[{"prompt": "a", "n": 1}, {"prompt": "b", "n": null}]')
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "n": 1}\n\n{"prompt": "b", "n": null}\n')
    for suffix in ("parquet", "json", "jsonl"):
        table = read_table(tmp_path / f"x.{suffix}")
        assert table.rows == ROWS
        assert table.columns == ("prompt", "n")


def test_labels_are_the_shortest_that_differ(write_rows: Callable[..., Path]) -> None:
    paths = [write_rows({"p": 1}, name=name) for name in ("a/x.jsonl", "b/x.jsonl", "b/y.jsonl")]
    assert [table.label for table in read_tables(paths)] == ["a/x.jsonl", "b/x.jsonl", "y.jsonl"]


def test_max_rows_counts_over_all_files(write_rows: Callable[..., Path]) -> None:
    paths = [write_rows({"p": 1}, {"p": 2}, name="x.jsonl"), write_rows({"p": 3}, {"p": 4}, name="y.jsonl")]
    assert [table.rows for table in read_tables(paths, 3)] == [[{"p": 1}, {"p": 2}], [{"p": 3}]]
    assert [table.rows for table in read_tables(paths, 1)] == [[{"p": 1}], []]


def error_of(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path)
    return str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def file(name: str, content: bytes) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    assert error_of(tmp_path / "no.parquet") == f"{tmp_path}/no.parquet does not exist; data files in its folder: none"
    assert error_of(tmp_path / "no/no.json") == f"{tmp_path}/no/no.json does not exist; data files in its folder: none"
    assert error_of(file("a.txt", b"p\n1")) == (
        f"{tmp_path}/a.txt is not a .parquet, .json or .jsonl file: convert it to one of them"
    )
    assert error_of(file("empty.jsonl", b"")) == f"{tmp_path}/empty.jsonl is an empty file: write it again"
    assert error_of(file("blank.jsonl", b"\n\n")) == f"{tmp_path}/blank.jsonl has no rows: it needs at least one"
    assert error_of(tmp_path) == f"{tmp_path} is a folder: name the files in it (blank.jsonl, empty.jsonl)"
    assert error_of(file("bad.parquet", b"not parquet")).startswith(
        f"{tmp_path}/bad.parquet cannot be read as parquet ("
    )
    assert error_of(file("latin.jsonl", b'{"p": "\xe9"}')).startswith(f"{tmp_path}/latin.jsonl is not UTF-8 text (")
    assert (
        error_of(file("o.json", b'{"p": 1}'))
        == f"{tmp_path}/o.json is one object (p), not a list of rows: write [{{...}}], or name the file .jsonl"
    )
    assert error_of(file("l.json", b'{"p": 1}\n{"p": 2}')) == (
        f"{tmp_path}/l.json is not valid JSON (Extra data: line 2 column 1 (char 9)); "
        "for one object a line name it .jsonl"
    )
    assert error_of(file("l.jsonl", b'{"p": 1}\n{"p": ')) == (
        f"{tmp_path}/l.jsonl, row 1 (counted from 0): is not valid JSON (Expecting value: line 1 column 7 (char 6)): "
        "correct or remove the line"
    )
    assert error_of(file("n.jsonl", b'{"p": 1}\n3\n')) == (
        f"{tmp_path}/n.jsonl, row 1 (counted from 0): is a int, not an object: write {{...}}"
    )


def test_lists_of_files_that_cannot_be_used(write_rows: Callable[..., Path]) -> None:
    path = write_rows({"p": 1})
    with pytest.raises(DataError, match=r"^no data file is named: set data\.train_files to a \.parquet, \.json or"):
        read_tables([])
    with pytest.raises(DataError, match=r"rows\.jsonl is named more than once: name each file once$"):
        read_tables([path, path.parent / "." / path.name])


def test_json_that_is_nested_too_deeply_or_has_a_key_twice(tmp_path: Path) -> None:
    deep, twice = '{"p": ' + "[" * 100_000 + "]" * 100_000 + "}", '{"p": {"a": 1, "a": 2}}'
    for text, part in ((deep, "nested thousands of levels"), (twice, "'a' twice")):
        (tmp_path / "x.jsonl").write_text('{"p": 1}\n' + text)
        (tmp_path / "x.json").write_text(f"[{text}]")
        assert names(error_of(tmp_path / "x.jsonl"), "x.jsonl, row 1", part)
        assert names(error_of(tmp_path / "x.json"), "x.json ", part)


def test_cells_that_python_cannot_hold_are_named(tmp_path: Path) -> None:
    years = pa.array([0, 10_000_000], pa.date32())
    pq.write_table(pa.table({"prompt": ["a", "b"], "born": years}), tmp_path / "x.parquet")
    assert names(error_of(tmp_path / "x.parquet"), "x.parquet, row 1", "'born'", "date32", "cast")


def test_maps_are_objects_and_folders_give_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "split=train"
    folder.mkdir()
    values = pa.array([[("a", "1")]], pa.map_(pa.string(), pa.string()))
    pq.write_table(pa.table({"extra_info": values}), folder / "x.PARQUET")
    assert read_table(folder / "x.PARQUET").rows == [{"extra_info": {"a": "1"}}]
