"""The tables of the GAD experiments, on runs made up for it."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def experiments(monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, ModuleType]:
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "experiments"))
    import gad_ablations
    import gad_quickstart

    return gad_quickstart, gad_ablations


def made_up_run(accuracy_name: str) -> list[dict[str, float]]:
    """Validations at 0, 3 and 5; the adversarial stage is steps 4 and 5."""
    lines: list[dict[str, float]] = [{"step": step} for step in range(6)]
    for step, accuracy in ((0, 0.1), (3, 0.2), (5, 0.6)):
        lines[step] |= {accuracy_name: accuracy, "val-aux/gad/rouge_l": 0.7, "val-aux/gad/response_length": 9}
    for step in range(1, 6):
        stage = 2.0 if step > 3 else 1.0
        lines[step] |= {"training/gad_stage": stage, "reward/discriminator/mean": step, "critic/d_acc": step / 10}
    return lines


def test_the_adversarial_stage_is_counted_from_the_validation_before_it(
    experiments: tuple[ModuleType, ModuleType],
) -> None:
    _, gad_ablations = experiments
    part = gad_ablations.adversarial(made_up_run(gad_ablations.ACCURACY))
    assert [line["step"] for line in part] == [0, 1, 2]
    assert [line.get(gad_ablations.ACCURACY) for line in part] == [0.2, None, 0.6]
    assert gad_ablations.at_the_ends(part) == pytest.approx(
        {"score_first": 4.5, "score_last": 4.5, "d_acc_first": 0.45, "d_acc_last": 0.45, "rouge_l": 0.7, "length": 9}
    )


def test_the_tables_are_means_over_seeds(experiments: tuple[ModuleType, ModuleType]) -> None:
    gad_quickstart, gad_ablations = experiments
    runs = {
        seed: {"sampled": 0.1 * seed, "greedy": 0.5, "answer_first": 0.25, "guessed": None, "explained": 1.0}
        for seed in (1, 3)
    }
    shown = gad_quickstart.table({seed: dict.fromkeys(gad_quickstart.STUDENTS, run) for seed, run in runs.items()})
    assert shown.splitlines()[2] == "| untrained | 10.0% | 30.0% | 20.0% | 50.0% | 25.0% |"
    ends = {"score_first": -1.0, "score_last": 2.0, "d_acc_last": 0.5, "rouge_l": 0.7, "length": 13.0}
    table = gad_ablations.table({"GAD": {seed: {**run, **ends} for seed, run in runs.items()}})
    assert table.splitlines()[2] == (
        "| GAD | 20.0% (10.0% to 30.0%) | 50.0% | 25.0% | -1.00 to 2.00 | 0.50 | 0.70 | 13.0 |"
    )
