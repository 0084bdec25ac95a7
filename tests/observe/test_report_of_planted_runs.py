"""What the report says of runs with a known fault, and what it must not say; of healthy runs: nothing to mend."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from planted import ACCURACY, adversarial_rows, config, folder_of, rows

from gspo.observe.report import build_report
from gspo.observe.report.findings import find
from gspo.observe.report.folder import read_curves
from gspo.observe.report.readings import Verdict, read_run

RATE = "actor_rollout_ref.actor.optim.lr"


class Reading:
    """Everything that the report says of a run."""

    def __init__(self, folder: Path, found: Any, **settings: Any) -> None:
        run = read_curves(folder_of(folder, found, config(**settings)))
        self.findings = {finding.name: finding for finding in find(run)}
        self.verdicts: dict[str, Verdict] = {v.key: v for v in read_run(run, list(self.findings.values()))}
        self.levers = " ".join([v.lever for v in self.verdicts.values()] + [f.lever for f in self.findings.values()])

    def off(self) -> set[str]:
        """The metrics that are not healthy."""
        return {key for key, verdict in self.verdicts.items() if verdict.status in ("watch", "problem")}


def learning(done: float) -> float:
    return 0.1 + 0.6 * done


def broken(step: int, row: dict[str, Any]) -> dict[str, Any]:
    """A collapse in the first update: its step's reward was sampled before, and the rest is nothing."""
    if step == 1:
        return {"actor/ppo_kl": 3.8, "actor/grad_norm": 0.3}
    dead = {"critic/score/mean": 0.0, "critic/score/max": 0.0, "group/zero_spread": 1.0, "group/all_wrong": 1.0}
    dead |= {"group/all_right": 0.0, "actor/pg_clipfrac": 0.0, "actor/seq_clipfrac": 0.0, "actor/grad_norm": 0.0}
    dead |= {"actor/ppo_kl": 0.0, "actor/entropy": 3.0, "response_length/clip_ratio": 0.97}
    return dead | ({ACCURACY: 0.0} if ACCURACY in row else {})


def test_a_collapse_at_the_first_step(tmp_path: Path) -> None:
    read = Reading(tmp_path, rows(40, lambda _: 0.08, broken))
    (collapse,) = read.findings.values()
    assert (collapse.name, collapse.status, collapse.title) == ("collapse", "problem", "The run collapsed at step 2")
    assert "KL to the sampling policy reached 3.80 at step 1" in collapse.text
    assert f"a lower {RATE} (now 1e-06)" in collapse.lever
    assert "use_kl_loss=true" in collapse.lever
    assert "a higher" not in read.levers
    assert read.verdicts["actor/ppo_kl"].status == "problem"
    assert {verdict.lever for verdict in read.verdicts.values()} == {""}
    assert read.verdicts["critic/score/mean"].status == "problem"


def test_a_late_collapse_says_when_and_from_what(tmp_path: Path) -> None:
    def change(step: int, row: dict[str, Any]) -> dict[str, Any]:
        if step < 80:
            return {}
        if step == 80:
            return {"actor/ppo_kl": 0.4, "actor/grad_norm": 30.0}
        return broken(step, row)

    read = Reading(tmp_path, rows(100, learning, change), actor_rollout_ref__actor__use_kl_loss=True)
    (collapse,) = read.findings.values()
    assert collapse.name == "collapse"
    assert collapse.title == "The run collapsed at step 81"
    assert re.search(r"The reward was 0\.5\d+ at step 7\d, 0 from step 81 on", collapse.text)
    assert "actor_rollout_ref.actor.kl_loss_coef (now 0.001)" in collapse.lever
    assert "use_kl_loss" not in collapse.lever
    assert "a higher" not in read.levers


def test_a_run_that_comes_back_did_not_collapse(tmp_path: Path) -> None:
    def change(step: int, row: dict[str, Any]) -> dict[str, Any]:
        return broken(step, row) if 30 <= step < 40 else {"actor/ppo_kl": 1.5} if step == 29 else {}

    read = Reading(tmp_path, rows(100, learning, change))
    assert "collapse" not in read.findings
    assert read.findings["jolt"].title == "Step 29 threw the policy far off"
    assert read.verdicts["critic/score/mean"].status == "healthy"
    kl = read.verdicts["actor/ppo_kl"]
    assert kl.status == "problem"
    assert "highest 1.50 at step 29" in kl.text


def test_noise_at_low_reward_is_no_collapse(tmp_path: Path) -> None:
    read = Reading(tmp_path, rows(60, lambda done: 0.02 * (1 - 0.5 * done)))
    assert "collapse" not in read.findings


def test_a_learning_rate_that_is_too_low(tmp_path: Path) -> None:
    still = {"actor/ppo_kl": 2e-8, "actor/pg_clipfrac": 0.0, "actor/seq_clipfrac": 0.0, "actor/entropy": 0.8}
    read = Reading(tmp_path, rows(60, lambda _: 0.3, lambda *_: still))
    assert set(read.findings) == {"still"}
    assert read.findings["still"].lever == f"a higher {RATE} (now 1e-06): 10 times, then again"
    assert read.verdicts["held-out"].lever == read.findings["still"].lever
    assert read.verdicts["actor/pg_clipfrac"].lever == read.findings["still"].lever
    assert "a lower" not in read.levers


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "actor_rollout_ref__actor__policy_loss__loss_mode": "vanilla",
            "actor_rollout_ref__actor__clip_ratio_low": 0.2,
            "actor_rollout_ref__actor__clip_ratio_high": 0.28,
        },
        {
            "actor_rollout_ref__actor__policy_loss__loss_mode": "vanilla",
            "actor_rollout_ref__actor__clip_ratio_low": 0.2,
            "actor_rollout_ref__actor__clip_ratio_high": 0.2,
            "algorithm__adv_estimator": "gae",
        },
    ],
    ids=["gspo", "grpo", "ppo"],
)
def test_healthy_runs_are_left_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    def change(step: int, _: Any) -> dict[str, Any]:
        if not settings:
            return {}
        values = {"critic/vf_explained_var": min(0.6, -0.2 + 0.02 * step), "critic/vf_loss": 1 / step}
        clipped = {"actor/pg_clipfrac": 0.0013, "actor/seq_clipfrac": None}
        return clipped | (values if settings.get("algorithm__adv_estimator") == "gae" else {})

    found = [{key: value for key, value in row.items() if value is not None} for row in rows(100, learning, change)]
    read = Reading(tmp_path, found, **settings)
    assert read.findings == {}
    assert read.off() == set()
    assert read.levers.strip() == ""
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "Every metric that can be judged is in its healthy range." in page


def test_a_healthy_adversarial_run(tmp_path: Path) -> None:
    read = Reading(tmp_path, adversarial_rows(0.8))
    assert read.findings == {}
    assert read.off() == set()
    # The warmup's gradient is another loss's: it is no spike of the policy's.
    assert read.verdicts["actor/grad_norm"].text == "Median 1.00, no spikes."
    page = build_report(tmp_path).read_text(encoding="utf-8")
    assert "warmup, steps 1 to 20; discriminator alone, steps 21 to 25; adversarial, steps 26 to 85" in page
    assert '<span class="mark-name"' in page


@pytest.mark.parametrize(
    ("accuracy", "advice", "not_advice"),
    [
        (0.99, "a lower critic.optim.lr", "a higher critic.optim.lr"),
        (0.5, "a higher critic.optim.lr", "a lower critic.optim.lr"),
    ],
)
def test_a_discriminator_that_wins_and_one_that_guesses(
    tmp_path: Path, accuracy: float, advice: str, not_advice: str
) -> None:
    verdict = Reading(tmp_path, adversarial_rows(accuracy)).verdicts["critic/d_acc"]
    assert verdict.status == "watch"
    assert advice in verdict.lever
    assert not_advice not in verdict.lever
    assert verdict.text.endswith("since step 26.")


@pytest.mark.parametrize(("key", "sign"), [("critic/length_acc", "the length"), ("critic/eos_acc", "the end token")])
def test_a_discriminator_that_only_sees_a_sign(tmp_path: Path, key: str, sign: str) -> None:
    found = [{**row, key: 0.85, "critic/d_acc": 0.86} for row in adversarial_rows(0.86)]
    assert Reading(tmp_path, found).off() == set()  # the overlap with the teacher rises all the same
    for row in found:
        row.pop("val-aux/gad/rouge_l", None)
    read = Reading(tmp_path, found)
    assert read.off() == {key}
    assert f"no more than {sign}" in read.verdicts[key].text


def test_solved_prompts_are_no_fault(tmp_path: Path) -> None:
    read = Reading(tmp_path, rows(100, lambda done: min(0.97, 0.3 + done)))
    assert set(read.findings) == {"solved"}
    assert read.findings["solved"].status == "healthy"
    assert read.off() == set()
    assert "solved by every response" in read.verdicts["group/zero_spread"].text


def test_solved_prompts_of_a_run_that_did_not_count_them(tmp_path: Path) -> None:
    found = rows(100, lambda done: min(0.89, 0.3 + done))
    for row in found:
        row.pop("group/all_right", None)
        row.pop("group/all_wrong", None)
        if "group/zero_spread" in row:
            row["group/zero_spread"] = 0.62
    assert Reading(tmp_path, found).off() == set()


def test_hopeless_prompts(tmp_path: Path) -> None:
    read = Reading(tmp_path, rows(60, lambda _: 0.001))
    assert set(read.findings) == {"hopeless"}
    assert "easier prompts" in read.findings["hopeless"].lever
    assert read.verdicts["group/zero_spread"].status == "problem"
    assert "harder" not in read.levers
    assert RATE not in read.levers


def test_no_reward_at_all(tmp_path: Path) -> None:
    nothing = {"critic/score/mean": 0.0, "critic/score/max": 0.0, "actor/grad_norm": 0.0}
    read = Reading(tmp_path, rows(30, lambda _: 0.0, lambda *_: nothing))
    assert set(read.findings) == {"hopeless"}
    assert read.verdicts["critic/score/mean"].text.startswith("Every response got the same reward, 0")
    assert read.verdicts["actor/grad_norm"].status == "problem"
    assert RATE not in read.levers


def test_truncation(tmp_path: Path) -> None:
    read = Reading(tmp_path, rows(40, learning, lambda *_: {"response_length/clip_ratio": 0.8}))
    assert set(read.findings) == {"cut"}
    assert "a larger data.max_response_length (now 512)" in read.findings["cut"].lever
    assert read.off() == {"response_length/clip_ratio"}


def test_truncation_that_is_over(tmp_path: Path) -> None:
    change = lambda step, _: {"response_length/clip_ratio": 0.6 if step <= 10 else 0.0}  # noqa: E731
    verdict = Reading(tmp_path, rows(40, learning, change)).verdicts["response_length/clip_ratio"]
    assert (verdict.status, verdict.lever) == ("healthy", "")
    assert "at 10 of 40 steps (step 1 to step 10; highest 0.6 at step 1)" in verdict.text


def test_groups_without_a_signal_do_not_dilute_the_clip_fraction(tmp_path: Path) -> None:
    diluted = {"group/zero_spread": 0.8, "group/all_wrong": 0.4, "group/all_right": 0.4, "actor/pg_clipfrac": 0.12}
    verdict = Reading(tmp_path, rows(40, learning, lambda *_: diluted)).verdicts["actor/pg_clipfrac"]
    assert verdict.value == "0.6"  # 0.12 of all tokens, of which a fifth has a signal
    assert verdict.status == "problem"
    assert "a wider range" in verdict.lever
    assert "narrower" not in verdict.lever


@pytest.mark.parametrize(
    ("loss", "clip", "fraction", "words"),
    [
        ("gspo", 0.2, 0.0, "0.2 / 0.2 is a range of token ratios"),
        ("vanilla", 0.0003, 0.9, "0.0003 / 0.0003 is a range of sequence ratios"),
    ],
)
def test_a_range_that_does_not_fit_the_ratio(
    tmp_path: Path, loss: str, clip: float, fraction: float, words: str
) -> None:
    settings = {
        "actor_rollout_ref__actor__policy_loss__loss_mode": loss,
        "actor_rollout_ref__actor__clip_ratio_low": clip,
        "actor_rollout_ref__actor__clip_ratio_high": clip,
    }
    found = rows(40, lambda _: 0.3, lambda *_: {"actor/pg_clipfrac": fraction})
    verdict = Reading(tmp_path, found, **settings).verdicts["actor/pg_clipfrac"]
    assert words in verdict.text
    assert "clip_ratio_low" in verdict.lever
    assert RATE not in verdict.lever


def test_a_range_in_force_that_fits_is_the_one_that_is_named(tmp_path: Path) -> None:
    found = rows(40, lambda _: 0.3, lambda *_: {"actor/pg_clipfrac": 0.0, "actor/ppo_kl": 0.002})
    verdict = Reading(tmp_path, found).verdicts["actor/pg_clipfrac"]
    assert verdict.status == "watch"
    assert "0.0003 / 0.0004" in verdict.text
    assert "0.2" not in f"{verdict.text} {verdict.lever} {verdict.healthy}"


def test_one_optimizer_step_per_rollout_cannot_clip(tmp_path: Path) -> None:
    still = {"actor/pg_clipfrac": 0.0, "actor/seq_clipfrac": 0.0, "actor/ppo_kl": 0.0}
    read = Reading(tmp_path, rows(60, learning, lambda *_: still), actor_rollout_ref__actor__ppo_mini_batch_size=64)
    assert {read.verdicts[key].status for key in still} == {"unknown"}
    assert read.off() == set()


@pytest.mark.parametrize("on", [True, False])
def test_the_divergence_from_the_reference(tmp_path: Path, on: bool) -> None:
    change = lambda step, _: {"actor/kl_loss": 0.1 * step} if on else {}  # noqa: E731
    read = Reading(tmp_path, rows(40, learning, change), actor_rollout_ref__actor__use_kl_loss=on)
    if not on:
        assert "actor/kl_loss" not in read.verdicts
        assert "kl_loss_coef" not in read.levers
        return
    verdict = read.verdicts["actor/kl_loss"]
    assert (verdict.status, "a larger actor_rollout_ref.actor.kl_loss_coef (now 0.001)" in verdict.lever) == (
        "problem",
        True,
    )


@pytest.mark.parametrize(("end", "status", "advice"), [(0.05, "problem", "a larger"), (4.0, "problem", "a smaller")])
def test_entropy_is_advised_by_its_direction(tmp_path: Path, end: float, status: str, advice: str) -> None:
    change = lambda step, _: {"actor/entropy": 0.8 * (end / 0.8) ** (step / 40)}  # noqa: E731
    verdict = Reading(tmp_path, rows(40, learning, change)).verdicts["actor/entropy"]
    assert verdict.status == status
    assert f"{advice} actor_rollout_ref.actor.entropy_coeff" in verdict.lever


def test_overfitting_names_the_best_step(tmp_path: Path) -> None:
    found = rows(100, learning)
    for row in found:
        if ACCURACY in row:
            step = int(row["step"] or 0)
            row[ACCURACY] = 0.1 + 0.5 * math.sin(math.pi * step / 120)
    verdict = Reading(tmp_path, found).verdicts["held-out"]
    assert verdict.status == "watch"
    assert "below its best of 60.0 % at step 60" in verdict.text
    assert "near step 60" in verdict.lever


def test_reward_errors_are_told_only_where_there_are_some(tmp_path: Path) -> None:
    assert (
        "reward/errors" not in Reading(tmp_path / "a", rows(20, learning, lambda *_: {"reward/errors": 0.0})).verdicts
    )
    verdict = Reading(tmp_path / "b", rows(20, learning, lambda *_: {"reward/errors": 0.6})).verdicts["reward/errors"]
    assert verdict.status == "problem"
    assert "reward function" in verdict.lever


def test_filtered_groups_are_judged_by_all_that_was_sampled(tmp_path: Path) -> None:
    """The kept groups have a middling reward at every step, whatever the policy learns."""

    def change(_: int, row: dict[str, Any]) -> dict[str, Any]:
        kept = {"critic/score/mean": 0.5, "group/zero_spread": 0.0, "group/all_right": 0.0, "group/all_wrong": 0.0}
        return kept | {"group/score_unfiltered": row["critic/score/mean"]}

    read = Reading(tmp_path / "a", rows(60, learning, change))
    assert read.off() == set()
    assert read.verdicts["critic/score/mean"].text.startswith("Rose from 0.1")
    lost = Reading(tmp_path / "b", rows(60, lambda done: 0.7 - 0.6 * done, change)).verdicts["critic/score/mean"]
    assert lost.status == "problem"


@pytest.mark.parametrize("seed", range(4))
def test_a_run_that_lacks_metrics_or_values_has_a_page(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    for number in range(8):
        whole = adversarial_rows(draw.random(), draw.choice([0, 3]), draw.choice([0, 2]), draw.choice([1, 12]))
        found = draw.choice([whole, rows(draw.choice([1, 2, 9, 30]), lambda done: 0.2 + 0.5 * done)])
        lost = draw.sample(sorted({name for row in found for name in row} - {"step"}), k=draw.choice([0, 2, 6]))
        odd = [None, 0.0, -1.0, 1e9, 1e-9]
        kept = [
            {
                name: draw.choice(odd) if name != "step" and draw.random() < 0.1 else value
                for name, value in row.items()
                if name not in lost and (name == "step" or draw.random() < 0.9)
            }
            for row in found
        ]
        settings: Any = draw.choice([config(), config(algorithm__adv_estimator="gae"), {}])
        page = build_report(folder_of(tmp_path / str(number), kept, settings)).read_text(encoding="utf-8")
        assert "<main>" in page
        assert not re.search(r'd="[^"]*(nan|inf)', page)
