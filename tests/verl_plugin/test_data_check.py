"""Rows without a teacher's text are found before a cluster starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from gspo.data.rows import DataError
from gspo.integrations.verl.callback import BeforeCluster
from gspo.integrations.verl.data_check import check_data
from gspo.integrations.verl.settings import GadSettings

GOOD: list[dict[str, Any]] = [{"prompt": "a", "teacher_response": "b"}, {"prompt": "c", "teacher_response": "d"}]


def written(folder: Path, rows: list[dict[str, Any]], suffix: str) -> Path:
    path = folder / f"train{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(*files: Path | str) -> Any:
    return OmegaConf.create({"data": {"train_files": [str(file) for file in files]}})


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_every_row_of_every_file_is_looked_at(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, GOOD, suffix)
    assert check_data(config(path), GadSettings()) == 2
    assert check_data(config(path, "hdfs://away/train.parquet"), GadSettings()) == 2
    assert check_data(OmegaConf.create({"data": {"train_files": str(path)}}), GadSettings()) == 2


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(("value", "what"), [(None, "no text"), ("  ", "an empty text")])
def test_a_row_without_a_text_is_named(tmp_path: Path, suffix: str, value: Any, what: str) -> None:
    path = written(tmp_path, [*GOOD, {"prompt": "e", "teacher_response": value}], suffix)
    with pytest.raises(DataError) as raised:
        check_data(config(path), GadSettings())
    message = str(raised.value)
    assert f"{path}, row 2" in message
    assert what in message
    assert "gspo data teacher" in message


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_a_file_without_the_column_is_named_with_its_columns(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path, GOOD, suffix)
    with pytest.raises(DataError, match=r"no column answer.*teacher_response.*gad\.teacher_key"):
        check_data(config(path), GadSettings(teacher_key="answer"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not there\.parquet"):
        check_data(config(tmp_path / "not there.parquet"), GadSettings())


def test_the_callback_ends_the_program_with_one_line(tmp_path: Path) -> None:
    path = written(tmp_path, [*GOOD, {"prompt": "e", "teacher_response": ""}], ".parquet")
    composed = OmegaConf.create(
        {
            "data": {"train_files": str(path)},
            "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
            "critic": {"enable": True},
            "actor_rollout_ref": {
                "actor": {"policy_loss": "gspo", "strategy": "fsdp", "use_kl_loss": False},
                "model": {"path": "m"},
            },
        }
    )
    # Hydra catches every Exception of a callback, and goes on: only an exit stops it.
    with pytest.raises(SystemExit, match="row 2"):
        BeforeCluster().on_run_start(composed)
