"""`gspo samples`: whole groups with rewards and advantages, of the step that is asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from messages import names

from gspo.cli import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    common = {"data_source": "s", "finish_reason": "stop", "length": 3}
    lines = [{"step": 0, "split": "val", "uid": "v:0", "prompt": "held out?", "response": "x", "reward": 0.0, **common}]
    for step in (1, 2):
        for number, reward in enumerate((1.0, 0.0)):
            lines.append(
                {
                    "step": step,
                    "split": "train",
                    "uid": "t:7",
                    "prompt": f"prompt {step}",
                    "response": f"answer {number}",
                }
                | {"reward": reward, "advantage": reward - 0.5, **common}
            )
    lines.append(
        {"step": 2, "split": "train", "uid": "t:8", "prompt": "second", "response": "word " * 400, "reward": None}
        | {"advantage": None, "error": "timed out after 5 s", "teacher": "teach", **common, "finish_reason": "length"}
    )
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["samples", *arguments]) == 0
    return capsys.readouterr().out


def test_the_last_step_is_shown_group_by_group(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, str(run))
    lines = text.splitlines()
    assert lines[0] == f"step 2 of {run} (samples of steps 0 to 2)"
    assert "response 0  reward 1  advantage +0.5  3 tokens" in lines
    assert "response 1  reward 0  advantage -0.5  3 tokens" in lines
    assert "response 0  reward none  advantage none  3 tokens  cut at the limit  timed out after 5 s" in lines
    assert text.count("prompt 2") == 1
    assert text.index("prompt 2") < text.index("second") < text.index("teach")
    assert max(map(len, lines[1:])) <= 100
    assert "(--full shows them)" in text
    assert "(--full shows them)" not in shown(capsys, str(run), "--full")


def test_a_step_a_split_and_a_number_of_groups(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "prompt 1" in shown(capsys, str(run), "--step", "1")
    assert "held out?" in shown(capsys, str(run), "--split", "val")
    text = shown(capsys, str(run), "--groups", "1")
    assert "second" not in text
    assert "1 more groups of this step: --groups 0 shows all" in text


def test_json_holds_everything(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    groups = [json.loads(line) for line in shown(capsys, str(run), "--json").splitlines()]
    assert [(group["uid"], group["prompt"], len(group["responses"])) for group in groups] == [
        ("t:7", "prompt 2", 2),
        ("t:8", "second", 1),
    ]
    assert [response["advantage"] for response in groups[0]["responses"]] == [0.5, -0.5]
    assert groups[1]["teacher"] == "teach"
    assert groups[1]["responses"][0]["response"] == "word " * 400


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--step", "9"], ("--step 9", "0, 1, 2", "3 steps")),
        (["--split", "val", "--step", "2"], ("--step 2", "of split val")),
        (["--groups", "-1"], ("--groups -1", "0 for all")),
    ],
)
def test_what_is_not_there(
    run: Path, arguments: list[str], words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["samples", str(run), *arguments]) == 1
    assert names(capsys.readouterr().err, "gspo: error: ", *words)


def test_folders_without_samples(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "samples.jsonl").write_text("")
    assert main(["samples", str(run)]) == 1
    assert names(capsys.readouterr().err, "samples.jsonl", "no samples")
    (run / "samples.jsonl").unlink()
    assert main(["samples", str(run)]) == 1
    assert names(capsys.readouterr().err, "no samples.jsonl")
    assert main(["samples", str(tmp_path)]) == 1
    assert names(capsys.readouterr().err, "the runs in it are", run)
