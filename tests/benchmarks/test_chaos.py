"""Runs that are killed end as if they had not been; and what the command counts as a failure is one."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_a_run_that_is_killed_and_whose_checkpoint_is_damaged(capsys: pytest.CaptureFixture[str]) -> None:
    from chaos import main

    assert main(["--kinds", "gspo", "--kills", "3", "--damages", "2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("gspo: 3 kills, ")
    assert "0 with differing bits, 0 lost exports, 0 orphans" in said


def test_every_kind_of_failure_is_a_problem() -> None:
    from chaos import Tally

    assert Tally(kills=3, ends=2, damages=Counter({"same end": 2, "one line": 1})).problems == []
    assert len(Tally(differing=["gspo: actor, tensor x: was a, is b"]).problems) == 1
    assert len(Tally(lost_exports=1).problems) == 1
    assert len(Tally(orphans=2).problems) == 2
    assert len(Tally(damages=Counter({"state.json cut: KeyError: 'step'": 1})).problems) == 1


def test_a_traceback_is_no_clear_line() -> None:
    from chaos import Log

    assert Log(1, "model: x\ngspo: error: a.json is damaged\n").is_one_line
    assert not Log(1, "Traceback (most recent call last):\nKeyError: 'step'\n").is_one_line
    assert not Log(1, "gspo: error: one\ngspo: error: two\n").is_one_line
    assert not Log(-9, "model: x\n").is_one_line


@pytest.mark.parametrize("way", ["flipped", "cut", "removed"])
def test_each_way_damages_the_file(way: str, tmp_path: Path) -> None:
    from chaos import _WAYS

    file = tmp_path / "weights"
    whole = bytes(range(100))
    file.write_bytes(whole)
    damage: Any = _WAYS[way]
    damage(file, random.Random(1))
    assert not file.exists() or file.read_bytes() != whole
