"""The report reads the files of verl's own loggers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from gspo.observe.report import build_report
from gspo.observe.report.folder import read_curves


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def logged(step: int, **data: Any) -> dict[str, Any]:
    return {"step": step, "data": {name.replace("__", "/"): value for name, value in data.items()}}


def test_a_file_of_verls_metrics_is_read_by_its_name(tmp_path: Path) -> None:
    lines = [logged(1, critic__d_loss=0.7, note="text", actor__lr=None), logged(2, critic__d_loss=0.5)]
    run = read_curves(write_lines(tmp_path / "gad" / "gad_gspo.jsonl", lines))
    assert run.folder == tmp_path / "gad"
    assert run.curves["critic/d_loss"].steps == (1, 2)
    assert run.curves["critic/d_loss"].values == (0.7, 0.5)
    assert math.isnan(run.curves["actor/lr"].values[0])
    assert "note" not in run.curves  # no number


def test_the_files_of_a_run_that_was_resumed_are_one_run(tmp_path: Path) -> None:
    # Steps 2 and 3 were lost with the run that was killed, and made anew.
    write_lines(tmp_path / "metrics-1.jsonl", [logged(step, critic__d_loss=step / 10) for step in (1, 2, 3)])
    write_lines(tmp_path / "metrics-2.jsonl", [logged(step, critic__d_loss=step / 100) for step in (2, 3, 4)])
    curve = read_curves(tmp_path).curves["critic/d_loss"]
    assert dict(zip(curve.steps, curve.values, strict=True)) == {1: 0.1, 2: 0.02, 3: 0.03, 4: 0.04}


def test_the_samples_are_those_of_verls_dumps(tmp_path: Path) -> None:
    write_lines(tmp_path / "metrics.jsonl", [logged(1), logged(10)])
    for step in (10, 2):
        dump = [{"input": f"in {step}", "output": "out", "gts": None, "score": 0.5, "step": step, "uid": "u_0_0"}]
        write_lines(tmp_path / "rollouts" / f"{step}.jsonl", dump)
    write_lines(tmp_path / "validation" / "2.jsonl", [{"input": "held", "output": "out", "score": 1.0, "step": 2}])
    samples = read_curves(tmp_path).samples
    assert [(sample["step"], sample["split"], sample["prompt"]) for sample in samples] == [
        (2, "train", "in 2"),
        (2, "val", "held"),
        (10, "train", "in 10"),
    ]
    assert samples[0]["reward"] == 0.5


def test_the_page_is_written_beside_them(tmp_path: Path) -> None:
    steps = [logged(step, critic__score__mean=step / 20) for step in range(1, 21)]
    file = write_lines(tmp_path / "gad_gspo.jsonl", steps)
    write_lines(
        tmp_path / "rollouts" / "3.jsonl", [{"input": "a question", "output": "an answer", "score": 2, "step": 3}]
    )
    page = build_report(file)
    assert page == tmp_path / "report.html"
    text = page.read_text()
    assert "rose from 0.075 to 0.975" in text
    assert "an answer" in text


def test_a_folder_without_any_is_refused_with_both_remedies(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"trainer\.default_local_dir.*VERL_FILE_LOGGER_PATH"):
        read_curves(tmp_path)
