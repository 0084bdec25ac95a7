"""samples.jsonl and the JSON Lines files under it: valid JSON always, no line twice after a resume."""

import json
import math
from pathlib import Path

import pytest

from gspo.groups import Group, Outcome, Prompt, Response
from gspo.observe.jsonl import open_jsonl, read_jsonl, write_line
from gspo.observe.samples import SampleWriter


def group(uid: str, outcomes: list[Outcome | None]) -> Group:
    prompt = Prompt(uid, (1, 2, 3), f"text of {uid}", "gsm8k")
    responses = [
        Response([5] * (i + 1), [0.0] * (i + 1), f"answer {i}", "stop", outcome=o) for i, o in enumerate(outcomes)
    ]
    return Group(prompt, responses)


def test_what_json_lacks_is_null_at_any_depth(tmp_path: Path) -> None:
    with open_jsonl(tmp_path / "a.jsonl", None) as file:
        write_line(file, {"step": 1, "a": math.nan, "b": {"c": [math.inf, 0.5]}})
    assert (tmp_path / "a.jsonl").read_text() == '{"step": 1, "a": null, "b": {"c": [null, 0.5]}}\n'


def test_every_text_makes_one_line_and_comes_back(tmp_path: Path) -> None:
    text = "line\nline\u2028\x85 中文 lone \udc80 surrogate"
    with open_jsonl(tmp_path / "a.jsonl", None) as file:
        write_line(file, {"step": 1, "text": text})
    assert (tmp_path / "a.jsonl").read_bytes().count(b"\n") == 1
    assert read_jsonl(tmp_path / "a.jsonl") == [{"step": 1, "text": text}]


def test_resume_removes_later_steps_and_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "x"')
    with open_jsonl(path, 2) as file:
        write_line(file, {"step": 3, "again": True})
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n{"step": 3, "again": true}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jsonl"]


def test_new_run_starts_empty(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"step": 0}\n')
    open_jsonl(path, None).close()
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("line", "message"), [("{", "line 2: not JSON"), ('{"a": 1}', 'line 2: not an object with a whole "step"')]
)
def test_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_jsonl(tmp_path / "a.jsonl")


def test_samples_hold_what_was_written_and_why_it_has_no_reward(tmp_path: Path) -> None:
    writer = SampleWriter(tmp_path, limit=3)
    first = group("f:1", [Outcome(1.0, {"format": 0.5}), Outcome(error="timed out after 5 s")])
    writer.write([first, group("f:2", [Outcome(abstained="no answer"), None])], 7, "val", [0.5, -0.5, 0.25, 0.0])
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    common = {"step": 7, "split": "val", "data_source": "gsm8k", "finish_reason": "stop"}
    assert rows == [
        {**common, "uid": "f:1", "prompt": "text of f:1", "response": "answer 0", "reward": 1.0, "length": 1}
        | {"extras": {"format": 0.5}, "advantage": 0.5},
        {**common, "uid": "f:1", "prompt": "text of f:1", "response": "answer 1", "reward": None, "length": 2}
        | {"extras": {}, "error": "timed out after 5 s", "advantage": -0.5},
        {**common, "uid": "f:2", "prompt": "text of f:2", "response": "answer 0", "reward": None, "length": 1}
        | {"extras": {}, "abstained": "no answer", "advantage": 0.25},
    ]


def test_samples_are_cut_back_on_resume(tmp_path: Path) -> None:
    for resume, steps in ((None, (1, 2, 3)), (1, (2,))):
        writer = SampleWriter(tmp_path, resume_step=resume)
        for step in steps:
            writer.write([group(f"f:{step}", [None])], step)
        writer.close()
    rows = read_jsonl(tmp_path / "samples.jsonl")
    assert [(row["step"], row["uid"], row["split"]) for row in rows] == [(1, "f:1", "train"), (2, "f:2", "train")]
    assert "advantage" not in rows[0]
    assert "extras" not in rows[0]


def test_samples_refuse_wrong_counts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the limit of samples per step is -1"):
        SampleWriter(tmp_path, limit=-1)
    writer = SampleWriter(tmp_path)
    with pytest.raises(ValueError, match="1 advantages for 2 responses"):
        writer.write([group("f:1", [None, None])], 1, advantages=[0.1])
    writer.close()
