"""The toy experiment in experiments/: its steps against gradients written out by hand, and that it runs."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.slow

EXPERIMENTS = Path(__file__).parent.parent / "experiments"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import gad_toy

    return gad_toy


def test_the_teacher_is_the_mixture(toy: ModuleType) -> None:
    def bump(mean: float) -> np.ndarray:
        mass = np.exp(-((np.arange(10) - mean) ** 2) / (2 * 0.8**2))
        return mass / mass.sum()

    np.testing.assert_allclose(toy.teacher_probabilities(0.8).numpy(), 0.8 * bump(2) + 0.2 * bump(7), rtol=1e-12)


def test_one_step_of_each_kind_is_the_formula_s(toy: ModuleType) -> None:
    runs = toy.Runs(toy.Variant("GAD"), seeds=(1, 2))
    mu, s = runs.students.detach().numpy().T.copy()
    teacher, student = (classes.numpy() for classes in runs.draw())
    scores = np.zeros((runs.num, 10))
    for run in range(runs.num):  # scores are 0, so every pair's sigmoid(-(t - s)) is a half
        np.add.at(scores[run], teacher[run], 0.5 * 0.5 / toy.PROMPTS)
        np.add.at(scores[run], student[run], -0.5 * 0.5 / student.shape[1])
    runs.discriminate(torch.from_numpy(teacher), torch.from_numpy(student))
    np.testing.assert_allclose(runs.scores.detach().numpy(), scores, atol=1e-12)

    rewards = np.take_along_axis(scores, student, axis=1)
    groups = rewards.reshape(runs.num, toy.PROMPTS, toy.SAMPLES)
    advantages = (groups - groups.mean(-1, keepdims=True)).reshape(student.shape)
    probabilities = toy.student_log_probs(runs.students.detach()).exp().numpy()
    classes = np.arange(10)
    slope_mu = (classes - mu[:, None]) / s[:, None] ** 2
    slope_s = (classes - mu[:, None]) ** 2 / s[:, None] ** 3
    expected = []
    for start, slope in ((mu, slope_mu), (s, slope_s)):
        score_function = slope - (probabilities * slope).sum(-1, keepdims=True)
        expected.append(start + 0.02 * (advantages * np.take_along_axis(score_function, student, axis=1)).mean(-1))
    runs.reinforce(torch.from_numpy(student), torch.from_numpy(rewards).reshape(-1, 1), normalise=False)
    np.testing.assert_allclose(runs.students.detach().numpy(), np.stack(expected, axis=1), rtol=1e-10)


def test_a_run_does_not_depend_on_those_beside_it(toy: ModuleType) -> None:
    variant = toy.Variant("GAD", student_warmup=10)
    together = toy.train(variant, seeds=(1, 2), steps=40)
    alone = toy.train(dataclasses.replace(variant, starts=variant.starts[2:3]), seeds=(2,), steps=40)
    assert (together.starts[5], together.seeds[5]) == (alone.starts[0], alone.seeds[0])
    assert together.mu[5] == pytest.approx(alone.mu[0], rel=1e-12)
    assert together.s[5] == pytest.approx(alone.s[0], rel=1e-12)


def test_the_command_writes_its_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    command = [sys.executable, str(EXPERIMENTS / "gad_toy.py"), "--out", str(tmp_path), "--steps", "20"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert {path.name for path in tmp_path.iterdir()} == {"results.json", "table.md", "figure.png"}
    committed = json.loads((EXPERIMENTS / "results" / "gad_toy" / "results.json").read_text())
    written = json.loads((tmp_path / "results.json").read_text())
    assert [outcome["name"] for outcome in written] == [outcome["name"] for outcome in committed]
