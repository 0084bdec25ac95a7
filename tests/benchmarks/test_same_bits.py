"""The record of bits: a difference is named, with both values, and a record of other runs is no comparison."""

from __future__ import annotations

import json
from pathlib import Path


def test_a_difference_is_named_with_both_values() -> None:
    from same_bits import differences

    before = {"training": "finished", "metrics.jsonl line 1, step 1, actor/lr": 0.1, "actor, tensor weight": "aa"}
    assert differences(iter([("gspo", before, dict(before))])) == []
    (line,) = differences(iter([("gspo", before, {**before, "metrics.jsonl line 1, step 1, actor/lr": 0.2})]))
    assert all(part in line for part in ("gspo", "step 1, actor/lr", "0.1", "0.2"))
    (line,) = differences(iter([("ppo", before, {**before, "actor, tensor weight": "bb"})]))
    assert all(part in line for part in ("ppo", "tensor weight", "aa", "bb"))


def test_what_is_compared_of_a_run(tmp_path: Path) -> None:
    from same_bits import file_bits, text_bits

    (tmp_path / "state.json").write_text(json.dumps({"tensors": ["b", "a"], "state": {"kind": "train"}}))
    assert dict(file_bits(tmp_path, tmp_path)) == {"state.json tensors": ["a", "b"], "state.json state.kind": "train"}
    (tmp_path / "config.yaml").write_text(f"path: {tmp_path}/model\n")
    assert dict(text_bits(tmp_path, "config.yaml", tmp_path)) == {"config.yaml line 1": "path: WORK/model"}
