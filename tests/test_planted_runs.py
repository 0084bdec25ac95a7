"""The experiment of runs that go wrong on purpose: its faults are those that a run can tell, and two of them are."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from messages import names

from gspo.observe.watch import RULES


@pytest.fixture(scope="module")
def planted_runs() -> Iterator[ModuleType]:
    file = Path(__file__).parent.parent / "experiments" / "planted_runs.py"
    spec = importlib.util.spec_from_file_location("planted_runs", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_every_warning_that_a_short_run_can_have_is_planted(planted_runs: ModuleType) -> None:
    expected = {name for planted in planted_runs.RUNS.values() for name in planted.expected}
    known = {rule.name for rule in RULES}
    assert expected <= known
    # Of a reference, of supervised training, of a machine; and a clip range in use is said at the start.
    assert known - expected == {"far from the reference", "rising loss", "slow step", "mostly clipped"}
    controls = [planted for planted in planted_runs.RUNS.values() if not planted.fault]
    assert len(controls) == 3
    assert not any(planted.expected or planted.at_start for planted in controls)


def test_a_planted_run_says_what_was_planted(
    planted_runs: ModuleType, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planted_runs, "NUM_WORDS", 16)
    planted = planted_runs.RUNS["no rate"]
    short = planted_runs.Planted(
        planted.fault,
        {**planted.settings, "trainer.total_training_steps": 3},
        lambda solution_str: float(len(solution_str)),
    )
    said = planted_runs.told("no rate", short, tiny_model_folder, tmp_path)
    (found,) = (text for step, name, text in said if (step, name) == (3, "no update"))
    assert names(found, "step 3", "learning rate is 0", "actor_rollout_ref.actor.optim.lr")
