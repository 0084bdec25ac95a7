"""`gspo compare`: reading variants, running them once, going on after a stop, and what it leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from messages import names

import gspo.commands.compare
from gspo.cli import main
from gspo.commands.compare import make_jobs, parse_variant
from gspo.config import Config, ConfigError, render

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]
LOSS = "actor_rollout_ref.actor.policy_loss"
# The comparison names each run's folder.
OWN = "trainer.default_local_dir"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base", ("base", [])),
        ("base:", ("base", [])),
        ("a-1.b:x.y=1", ("a-1.b", ["x.y=1"])),
        ("a:x=[1,2],y='p,q',+z.w={u: 1, v: 2}", ("a", ["x=[1,2]", "y='p,q'", "+z.w={u: 1, v: 2}"])),
        ("a:x=b:c", ("a", ["x=b:c"])),
    ],
)
def test_variants_are_read(text: str, expected: tuple[str, list[str]]) -> None:
    assert parse_variant(text) == expected


@pytest.mark.parametrize("text", ["", ":x=1", "a b:x=1", "a:x", "a/b:x=1"])
def test_a_variant_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_variant(text)
    assert names(caught, f"--variants {text}", "NAME:key=value,key=value")


@pytest.mark.parametrize("key", ["trainer.seed", "+trainer.default_local_dir", "trainer.resume_mode"])
def test_what_the_comparison_sets_itself(key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_variant(f"a:{key}=1")
    name = key.removeprefix("+")
    assert names(caught, f"--variants a:{key}=1: {name}", "take it out", "--seeds")


def arguments(run_overrides: Overrides, tmp_path: Path, *more: str) -> list[str]:
    base = [text for text in run_overrides() if not text.startswith((OWN, LOSS))]
    variants = [f"gspo:{LOSS}=gspo", f"ppo:{LOSS}=vanilla,actor_rollout_ref.actor.clip_ratio=0.2"]
    return ["compare", *base, *more, "--variants", *variants, "--seeds", "1", "2", "--out", str(tmp_path / "out")]


def test_settings_are_checked_before_the_first_run(run_overrides: Overrides, tmp_path: Path) -> None:
    base = [text for text in run_overrides() if not text.startswith(OWN)]
    variants = {"good": [], "bad": ["actor_rollout_ref.rollout.temprature=1"]}
    with pytest.raises(ConfigError, match=r"unknown key actor_rollout_ref\.rollout\.temprature"):
        make_jobs(None, None, base, variants, [1], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_end_to_end_and_nothing_runs_twice(
    run_overrides: Overrides,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    started: list[str] = []
    train = gspo.commands.compare.train

    def spy(config: Config) -> None:
        started.append(str(config.trainer.experiment_name))
        if len(started) == 4:
            raise ValueError("stopped before the fourth run")
        train(config)

    monkeypatch.setattr(gspo.commands.compare, "train", spy)
    command = arguments(run_overrides, tmp_path, f"data.val_files={tiny_data / 'test.jsonl'}")
    assert main(command) == 1
    assert "gspo: error: stopped before the fourth run" in capsys.readouterr().err
    assert len(json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))["gspo"]["runs"]) == 2
    assert main(command) == 0
    assert started == ["gspo-seed-1", "ppo-seed-1", "gspo-seed-2", "ppo-seed-2", "ppo-seed-2"]
    assert main(command) == 0
    assert len(started) == 5

    found = json.loads((tmp_path / "out" / "compare.json").read_text(encoding="utf-8"))
    assert list(found) == ["gspo", "ppo"]
    assert found["ppo"]["overrides"] == [f"{LOSS}=vanilla", "actor_rollout_ref.actor.clip_ratio=0.2"]
    for variant in found.values():
        rewards = [run["reward"] for run in variant["runs"].values()]
        assert list(variant["runs"]) == ["1", "2"]
        assert rewards[0] != rewards[1]
        assert variant["mean"]["reward"] == pytest.approx(sum(rewards) / 2)
        assert variant["spread"]["reward"] == pytest.approx(abs(rewards[0] - rewards[1]) / 2**0.5)
        assert 0 <= variant["mean"]["accuracy_end"] <= 1
    # Both sample the first step with the same weights and the same draws.
    first = [
        json.loads((tmp_path / "out" / "runs" / f"{name}-seed-1" / "metrics.jsonl").read_text().splitlines()[1])
        for name in ("gspo", "ppo")
    ]
    assert first[0]["critic/score/mean"] == first[1]["critic/score/mean"]
    output = capsys.readouterr().out
    assert "mean ± standard deviation of 2 seeds" in output
    assert f"page: {tmp_path / 'out' / 'compare.html'}" in output
    assert (tmp_path / "out" / "compare.html").stat().st_size > 10_000


def test_a_folder_of_other_settings_is_not_taken_for_finished(
    run_overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(config: Config) -> None:
        folder = Path(config.trainer.default_local_dir or "")
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(render(config), encoding="utf-8")
        (folder / "metrics.jsonl").write_text('{"step": 1, "critic/score/mean": 1.0}\n', encoding="utf-8")

    monkeypatch.setattr(gspo.commands.compare, "train", pretend)
    assert main(arguments(run_overrides, tmp_path)) == 0
    capsys.readouterr()
    assert main(arguments(run_overrides, tmp_path, "data.shuffle=false")) == 1
    folder = tmp_path / "out" / "runs" / "gspo-seed-1"
    assert names(capsys.readouterr().err, "gspo: error: ", folder, "config.yaml", "--out", "remove this one")


def test_two_variants_of_one_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--variants", "a", "a:x=1"]) == 1
    assert names(capsys.readouterr().err, "gspo: error: --variants", "a a:x=1", "same name")
