"""`gspo report`: one run, several runs, and folders of every kind."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from messages import names

from gspo.cli import main
from gspo.commands.report import names_of

ROW = {"critic/score/mean": 0.5, "val-core/s/acc/mean@1": 0.25}


def make_run(folder: Path, rate: str = "1e-6", num_steps: int = 3, total: int | None = None) -> Path:
    folder.mkdir(parents=True)
    lines = [json.dumps({"step": step, **ROW}) + "\n" for step in range(1, num_steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(lines), encoding="utf-8")
    trainer = f"trainer: {{seed: 1, default_local_dir: {folder}, total_training_steps: {total or 'null'}}}\n"
    text = f"actor_rollout_ref: {{actor: {{optim: {{lr: {rate}}}, use_kl_loss: {'true' if total else 'false'}}}}}\n"
    (folder / "config.yaml").write_text(text + trainer, encoding="utf-8")
    return folder


def page_of(folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    return (folder / "report.html").read_text(encoding="utf-8")


def test_runs_are_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", "1e-5")]
    assert main(["report", *map(str, runs)]) == 0
    said = capsys.readouterr().out
    assert "a: actor_rollout_ref.actor.optim.lr=1e-06" in said
    assert "b: actor_rollout_ref.actor.optim.lr=1e-05" in said
    assert "default_local_dir" not in said
    assert f"page: {runs[0] / 'compare.html'}" in said
    page = (runs[0] / "compare.html").read_text(encoding="utf-8")
    assert "<h1>a / b</h1>" in page
    assert "25.0 %" in page
    assert main(["report", *map(str, runs), "--out", str(tmp_path / "c.html")]) == 0
    assert (tmp_path / "c.html").exists()


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    assert names_of([tmp_path / "x" / "gspo", tmp_path / "y" / "gspo"]) == ["x/gspo", "y/gspo"]
    with pytest.raises(ValueError, match="is given twice"):
        names_of([tmp_path / "x", tmp_path / "y" / ".." / "x"])


def test_out_is_for_several_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(make_run(tmp_path / "a")), "--out", "x.html"]) == 1
    assert names(capsys.readouterr().err, "--out", tmp_path / "a" / "report.html")


def test_a_run_that_is_not_finished_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "of 200: the run is not finished" in page_of(make_run(tmp_path / "a", total=200), capsys)
    assert "not finished" not in page_of(make_run(tmp_path / "b", total=3), capsys)


def test_an_interrupted_write_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "critic/sc')
    page = page_of(folder, capsys)
    assert '<div class="figure">3</div>' in page
    assert "could be read" not in page


def test_damage_is_said_and_the_rest_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[1] = "\x00\x00\x00"
    (folder / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 4, "critic/score/mean": "high"}', ""]))
    (folder / "samples.jsonl").write_text('[]\n{"step": 1, "split": "train", "prompt": "p", "reward": "x"}\n')
    assert main(["report", str(folder)]) == 0
    of_metrics, of_samples = capsys.readouterr().err.splitlines()
    assert names(of_metrics, "gspo: note: ", "metrics.jsonl, line 2", "left out")
    assert names(of_samples, "gspo: note: ", "samples.jsonl, line 1")
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert page.count("Not all of the folder could be read") == 2
    assert "metrics.jsonl, line 2" in page
    assert re.search(r"<pre>p</pre>", page)


def test_a_folder_without_its_config_still_has_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    (folder / "config.yaml").unlink()
    assert "Held-out accuracy" in page_of(folder, capsys)


def test_what_is_no_run_is_answered_by_what_to_give(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "runs" / "first")
    make_run(tmp_path / "runs" / "group" / "second")
    (tmp_path / "empty").mkdir()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("trainer: {}\n")

    def said(path: Path) -> str:
        assert main(["report", str(path)]) == 1
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert names(said(tmp_path / "runs"), f"{run}, {tmp_path / 'runs' / 'group' / 'second'}")
    assert names(said(tmp_path / "empty"), "has no metrics.jsonl", "trainer.default_local_dir")
    assert names(said(tmp_path / "begun"), "has not logged a step yet")
    assert names(said(tmp_path / "nothing"), "there is no folder", "trainer.default_local_dir")


def test_the_file_of_metrics_stands_for_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a")
    assert main(["report", str(folder / "metrics.jsonl")]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"


def test_a_page_is_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "a", num_steps=2000)
    page_of(folder, capsys)
    assert (folder / "report.html").stat().st_size < 500_000
