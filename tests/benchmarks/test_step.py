"""A workload's step by the trainer's own functions, its figures, and what the comparisons compute."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def _written_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workloads are written by the test's process: the one that writes them apart knows the real ones only."""
    import project
    from workloads import prepare

    monkeypatch.setattr(project, "prepare_apart", prepare)


GAD = {"discriminator": True, "mini_batches": 1}


def test_a_step_of_the_trainer(tiny: Any, tmp_path: Path) -> None:
    from project import open_workload, run_step

    with open_workload(tiny, tmp_path, torch.get_num_threads()) as run:
        steps = [run_step(run) for _ in range(2)]
    assert run.step == 2
    for step in steps:
        assert [len(group.responses) for group in step.groups] == [3, 3]
        assert step.completion_tokens == sum(sum(group.responses) for group in step.groups)
        assert {"gen", "reward", "update_actor", "other"} <= set(step.phases)
        assert sum(step.phases.values()) == pytest.approx(step.seconds)
        assert step.metrics["group/zero_spread"] == 0.0
        assert step.metrics["actor/skipped_steps"] == 0.0


def test_a_step_of_gad(tiny: Any, tmp_path: Path) -> None:
    from project import open_workload, run_step

    with open_workload(replace(tiny, **GAD), tmp_path, torch.get_num_threads()) as run:
        step = run_step(run)
    assert all(group.teacher > 0 for group in step.groups)
    assert {"gen", "reward", "update_critic", "update_actor"} <= set(step.phases)
    assert 0 <= step.metrics["critic/d_acc"] <= 1


def test_a_profile_of_a_step(tiny: Any, tmp_path: Path) -> None:
    from step import write_profile

    file = tmp_path / "new" / "profile.txt"
    write_profile(tiny, tmp_path, file, torch.get_num_threads())
    table = file.read_text(encoding="utf-8")
    assert "Self CPU %" in table
    assert "aten::mm " in table or "mkldnn::_linear_pointwise" in table


def test_both_ways_of_batching_compute_the_same(tiny: Any, tmp_path: Path) -> None:
    from loss_check import compare, make_groups, read_groups, write_groups
    from project import open_workload
    from project_worker import check_loss, prepare_check
    from released_gad import ReleasedGad
    from released_worker import check_losses
    from workloads import END, read_token_ids

    workload = replace(tiny, **GAD)
    with open_workload(workload, tmp_path, torch.get_num_threads()) as run:
        folder = tmp_path / "tiny"
        groups = make_groups(read_token_ids(folder), workload.n, workload.max_tokens, workload.vocab_size)
        for group, teacher in zip(groups, read_token_ids(folder, "teacher_response"), strict=True):
            group.teacher = [*teacher, END]
        write_groups(groups, tmp_path / "check.json")
        assert prepare_check(run.actor.policy, tmp_path / "check.json") == {"groups": 2}
        groups = read_groups(tmp_path / "check.json")
        ours = check_loss(run, groups)
    theirs = check_losses(ReleasedGad(workload, folder), groups)
    assert set(ours) == {"loss", "grad_norm", "d_loss", "d_grad_norm"}
    assert all(figure["relative"] < 1e-4 for figure in compare(ours, theirs).values())
    assert abs(ours["loss"]) > 0.01
    with pytest.raises(ValueError, match="the two do not compute the same: loss of"):
        compare({**ours, "loss": ours["loss"] * 1.001}, theirs)


def test_the_released_step_in_parts_is_the_whole(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import released_gad
    from workloads import prepare

    workload = replace(tiny, **GAD, lr=1e-2)
    folder = prepare(workload, tmp_path)
    weights = []
    for size in (1, 100):
        monkeypatch.setattr(released_gad, "_MICRO_BATCH", size)
        torch.manual_seed(3)
        released = released_gad.ReleasedGad(workload, folder)
        groups = released.step()
        assert [len(group.responses) for group in groups] == [3, 3]
        modules = nn.ModuleList([released.student, released.discriminator])
        # no pair depends on the head's bias: its gradient is rounding, which AdamW makes a step of
        weights.append([p.detach().clone() for name, p in modules.named_parameters() if not name.endswith("head.bias")])
        assert set(released.clock.pop()) == {
            f"timing_s/{name}" for name in ("gen", "reward", "old_log_prob", "adv", "update_critic", "update_actor")
        }
    start = released_gad.ReleasedGad(workload, folder)
    assert any(not torch.equal(a, b) for a, b in zip(weights[0], start.student.parameters(), strict=False))
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(
            one, other, rtol=0, atol=1e-3
        )  # a tenth of AdamW's step: where a gradient is nearly 0


def test_the_figures_are_medians(tiny: Any) -> None:
    from flops import GroupShape, useful_flops
    from project import Step
    from step import summary

    groups = (GroupShape(4, (2, 3)), GroupShape(5, (1, 6)))
    steps = [Step(seconds, {"gen": seconds / 2, "other": seconds / 2}, groups, {}) for seconds in (1.0, 3.0, 2.0)]
    figures = summary(tiny, steps, {"matmul_gflops": 1e-3, "onednn_gflops": 2e-3})
    assert figures["step_s"] == 2.0
    assert figures["phases_s"] == {"gen": 1.0, "other": 1.0}
    assert figures["completion_tokens_per_s"] == 12 / 2
    assert figures["decode_tokens_per_s"] == 12 / 1
    assert figures["prompt_tokens"] == 9
    assert figures["useful_gflop"]["step"] == useful_flops(tiny, groups) / 1e9
    assert figures["fraction_of_peak"]["step"] == pytest.approx(useful_flops(tiny, groups) / 2.0 / 1e6)
    assert set(figures["fraction_of_peak"]) == {"step", "gen"}
    assert figures["fraction_of_onednn"]["step"] == pytest.approx(figures["fraction_of_peak"]["step"] / 2)


def test_pairs_and_their_medians() -> None:
    from pairs import medians, pair_line

    def reply(seconds: float, tokens: int) -> dict[str, Any]:
        return {"seconds": seconds, "phases": {"gen": seconds / 4}, "completion_tokens": tokens}

    lines = [pair_line("trl", reply(8.0, 100), reply(2.0, 50)), pair_line("trl", reply(6.0, 50), reply(2.0, 50))]
    assert [line["ratio"] for line in lines] == [4.0, 3.0]
    assert [line["ratio_per_token"] for line in lines] == [2.0, 3.0]
    assert medians(lines)["ratio"] == 3.5
    assert medians(lines)["trl_phases_s"] == {"gen": 1.75}


_WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from serving import Replies, serve
with Replies.open() as replies:
    print("noise of a library")
    serve({"twice": lambda text: {"text": 2 * text}, "fail": lambda _: 1 / 0}, replies)
"""


def test_a_worker_answers_and_says_why_it_ended(tmp_path: Path) -> None:
    from serving import Worker, environment

    folder = str(Path(__file__).parents[2] / "benchmarks")
    log = tmp_path / "worker.log"
    env = environment(1, "passive")
    assert (env["OMP_NUM_THREADS"], env["OMP_WAIT_POLICY"]) == ("1", "passive")
    with Worker("echo", [sys.executable, "-c", _WORKER, folder], log, env) as worker:
        assert worker.ask("twice a b") == {"text": "a ba b"}
        with pytest.raises(RuntimeError, match=r"the worker echo has ended with code 1 [\s\S]*ZeroDivisionError"):
            worker.ask("fail now")
    assert "noise of a library" in log.read_text(encoding="utf-8")


def test_setting_trl_up() -> None:
    from vs_trl import setup_commands

    venv, torch_first, trl = setup_commands(Path("x"), "python3")
    assert venv == ["python3", "-m", "venv", "x"]
    assert torch_first == ["x/bin/python", "-m", "pip", "install", "--quiet", "--no-input", "torch==2.13.0"]
    assert trl[-4:] == ["trl==1.16.*", "transformers", "accelerate", "datasets"]


def test_growth() -> None:
    from growth import Point, markdown, measure, points

    assert [point.n for point in points("n", 2)] == [4, 8]
    assert [point.vocabulary for point in points("vocabulary")] == [512, 4096, 32768, 151936]
    row = measure(Point(n=2, length=3, prompt=4, prompts=2), torch.get_num_threads(), repeats=1)
    assert row["state_mb"] == pytest.approx(16 * 5_010_688 / 1e6, rel=1e-3)
    assert row["update_s"] > 0
    json.dumps(row)
    table = markdown({"n": [row]})
    assert table.startswith("### n (length 64, vocabulary 512, prompt 256, prompts 8)\n")
    assert f"| 2 | {row['log_probs_s']:.2f} | {row['update_s']:.2f} |" in table
