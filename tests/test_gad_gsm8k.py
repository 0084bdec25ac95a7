"""GAD on GSM8K in experiments/: its settings, the rows it takes, and what its report says."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gspo.config import load_config
from gspo.trainer.assembly import Kind

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
ROWS = [
    {"teacher_response": "two and two is four", "extra_info": {"question": "2 + 2?"}},
    {"teacher_response": "one", "extra_info": {"question": "0 + 1?"}},
]


@pytest.fixture
def gsm8k(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import gad_gsm8k

    return gad_gsm8k


@pytest.fixture
def report(gsm8k: ModuleType) -> ModuleType:  # noqa: ARG001 (puts the folder on the path)
    import gad_gsm8k_report

    return gad_gsm8k_report


def record(number: int, response: str, acc: float, length: int, reason: str = "stop") -> dict[str, Any]:
    return {
        "uid": f"test.parquet:{number}",
        "response": response,
        "extras": {"acc": acc},
        "length": length,
        "finish_reason": reason,
    }


RECORDS = [
    record(0, "two and two is four", 1.0, 6),
    record(0, "two and two", 0.0, 10, "length"),
    record(1, "", 0.0, 1),
    record(1, "one", 0.0, 2),
]


def test_figures_are_means_over_rows(report: ModuleType) -> None:
    found = {name: mean for name, (mean, _) in report.figures(RECORDS, ROWS).items()}
    # Of three words of five ROUGE-L is 2 x 1 x 0.6 / 1.6 = 0.75; of one bigram pair each of 2 in 4, F1 is 2/3.
    assert found == pytest.approx(
        {
            "right answers": 0.25,
            "ROUGE-L": ((1 + 0.75) / 2 + 0.5) / 2,
            "1-gram F1": ((1 + 0.75) / 2 + 0.5) / 2,
            "2-gram F1": ((1 + 2 / 3) / 2 + 0) / 2,
            "4-gram F1": ((1 + 0) / 2 + 0) / 2,
            "tokens": (8 + 1.5) / 2,
            "cut": 0.25,
        }
    )


def test_the_report_to_the_letter(report: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 0, "val-aux/gad/d_acc": 0.5, "perf/time": 3}\n{"step": 1, "critic/d_acc": 0.75}\n')
    table = report.write_report(tmp_path / "out", metrics, {"adversarial": 0}, {"start": RECORDS}, ROWS)
    assert table.splitlines()[0].startswith("| student | right answers | ROUGE-L |")
    assert table.splitlines()[2].startswith("| start | 25.0% (0.0% to 50.0%) | 0.688 (0.500 to 0.875) |")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "curves.png",
        "results.json",
        "samples.md",
        "table.md",
    }
    curves = json.loads((tmp_path / "out" / "results.json").read_text())
    assert curves == [{"step": 0, "val-aux/gad/d_acc": 0.5}, {"step": 1, "critic/d_acc": 0.75}]
    samples = (tmp_path / "out" / "samples.md").read_text()
    assert "## 2 + 2?\n\nteacher:\n\n    two and two is four\n\nstart:\n\n    two and two is four\n" in samples


def test_long_rows_are_left_out(
    gsm8k: ModuleType, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def row(question: str, solution: str) -> dict[str, Any]:
        return {
            "prompt": [{"role": "user", "content": question}],
            "teacher_response": solution,
            "reward_model": {"ground_truth": "1"},
        }

    rows = [row("ab", "abc"), row("ab", "abcd"), row("a" * 40, "abc")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    monkeypatch.setattr(gsm8k, "LONGEST_QUESTION", 20)
    monkeypatch.setattr(gsm8k, "LONGEST_SOLUTION", 4)
    gsm8k.select_short(str(tiny_model_folder), tmp_path / "train.parquet", tmp_path / "short.parquet")
    assert pq.read_table(tmp_path / "short.parquet").to_pylist() == rows[:1]


def test_the_settings_are_the_stages_that_it_names(gsm8k: ModuleType, tmp_path: Path) -> None:
    config = load_config(None, "gad_gspo_config", gsm8k.settings("model", tmp_path))
    stages = Kind.of(config).stages(config.trainer, batches_per_epoch=1)
    assert (stages.warmup, stages.critic_only) == (gsm8k.WARMUP, gsm8k.DISCRIMINATOR_ONLY)
    assert config.trainer.total_training_steps == gsm8k.DISCRIMINATOR_ONLY + gsm8k.ADVERSARIAL
    assert config.trainer.save_freq == gsm8k.WARMUP  # the student after its warmup is read from a checkpoint
