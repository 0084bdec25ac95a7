"""Warnings of a run, from rows of its metrics: what is told, at which step, once, and what is not told."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import pytest
from messages import names

from gspo.config import load_config
from gspo.methods import LOSSES
from gspo.observe.watch import RULES, Facts, Watch

LR = "actor_rollout_ref.actor.optim.lr"

# Figures of a quickstart run, of its first and of its last steps.
HEALTHY = {
    "training/global_step": 1.0,
    "critic/score/mean": 0.5,
    "critic/score/min": 0.0,
    "critic/score/max": 1.0,
    "actor/lr": 1e-4,
    "actor/ppo_kl": 1e-3,
    "actor/entropy": 0.42,
    "actor/grad_norm": 0.8,
    "actor/skipped_steps": 0.0,
    "actor/pg_clipfrac": 0.25,
    "actor/pg_loss": 0.01,
    "group/zero_spread": 0.6,
    "response_length/clip_ratio": 0.0,
    "reward/errors": 0.0,
    "reward/abstained": 0.0,
}
ADVERSARIAL = {"training/gad_stage": 2.0, "critic/d_acc": 0.66, "critic/d_loss": 0.45}


def told(facts: Facts, *rows: Mapping[str, float]) -> dict[str, int]:
    """The step at which each warning was told, of rows that differ from a healthy one in what is given."""
    watch = Watch(facts)
    for step, row in enumerate(rows, 1):
        watch.see(step, {**HEALTHY, **row})
    return {name: warning.step for name, warning in watch.told.items()}


def text(facts: Facts, *rows: Mapping[str, float]) -> str:
    watch = Watch(facts)
    return " ".join(itertools.chain(*(watch.see(step, {**HEALTHY, **row}) for step, row in enumerate(rows, 1))))


def all_of(reward: float) -> dict[str, float]:
    return {f"critic/score/{end}": reward for end in ("min", "max", "mean")} | {"group/zero_spread": 1.0}


def test_a_healthy_run_is_told_nothing() -> None:
    late = {"critic/score/mean": 0.89, "actor/entropy": 0.16, "group/zero_spread": 0.72, "actor/ppo_kl": 4.3e-3}
    clipped = {"actor/pg_clipfrac": 0.42, "response_length/clip_ratio": 0.004}
    watch = Watch(Facts())
    for step, row in enumerate([{}, clipped, late] * 8, 1):
        assert watch.see(step, {**HEALTHY, **row}) == []
    assert watch.summary() == ""
    assert told(Facts(distils=True), *[ADVERSARIAL] * 20) == {}


def test_a_collapse_at_the_first_step_is_told_then_and_there_with_the_rate() -> None:
    """Figures of the quickstart with lr=1e-2: KL 2 at step 1, then no reward and no gradient."""
    dead = {**all_of(0.0), "actor/grad_norm": 0.0, "actor/ppo_kl": 0.0, "response_length/clip_ratio": 0.95}
    rows = [{"actor/ppo_kl": 2.07, "actor/entropy": 0.94}, *[{**dead, "actor/entropy": 1.9}] * 4]
    facts = Facts(lr=1e-2, updates=4)
    assert told(facts, *rows) == {"collapse": 1, "equal rewards": 4}
    said = text(facts, *rows)
    assert names(said, "step 1", "2.07", f"{LR} (now 0.01)", "actor_rollout_ref.actor.ppo_mini_batch_size")
    assert names(said, "step 4", "reward 0", "recovered from step 1")


@pytest.mark.parametrize(
    "after",
    [
        {"actor/entropy": 1.21},
        {"actor/entropy": 0.02},
        {"response_length/clip_ratio": 0.94},
    ],
)
def test_a_collapse_with_one_optimizer_step_shows_in_the_next_samples(after: dict[str, float]) -> None:
    """The ratio is then 1, and the divergence from the policy that sampled 0."""
    rows = [{"actor/ppo_kl": 0.0}, {"actor/ppo_kl": 0.0, **after}]
    assert told(Facts(updates=1), *rows) == {"collapse": 2}
    assert "ppo_mini_batch_size" not in text(Facts(updates=1), *rows)


@pytest.mark.parametrize("kl", [0.29, -0.29])
def test_bounds_of_a_collapse(kl: float) -> None:
    assert told(Facts(), {"actor/ppo_kl": kl}) == {}
    assert told(Facts(), {"actor/ppo_kl": math.copysign(0.31, kl)}) == {"collapse": 1}
    assert told(Facts(), {"actor/entropy": 0.42}, {"actor/entropy": 1.0}) == {}  # 2.4 times


def test_rewards_that_are_all_equal_are_told_by_what_they_are() -> None:
    none, all_right = [all_of(0.0)] * 3, [all_of(1.0)] * 3
    assert told(Facts(), *none) == told(Facts(), *all_right) == {"equal rewards": 3}
    assert told(Facts(), *none[:2], {}, *none[:2]) == {}
    assert names(text(Facts(), *none), "steps 1 to 3", "reward 0", "reward.functions", "sft")
    own = Facts(reward_key="custom_reward_function.path")
    assert names(text(own, *none), "custom_reward_function.path")
    assert names(text(Facts(), *all_right), "reward 1", "solved")
    # A discriminator's scores are compared, not judged.
    assert told(Facts(distils=True), *none) == {}


def test_rewards_that_went_are_a_collapse_where_the_entropy_went_too() -> None:
    lost = [{}, *[{**all_of(0.0)}] * 3]
    assert "collapsed" not in text(Facts(), *lost)
    assert "data.train_batch_size" in text(Facts(), *lost)
    drifted = [{}, *[{**all_of(0.0), "actor/entropy": value} for value in (0.8, 0.9, 1.0)]]
    assert names(text(Facts(), *drifted), "0.42 to 1 nats", "collapsed", LR)


def test_groups_without_spread_are_told_apart_by_right_and_wrong() -> None:
    flat = {"group/zero_spread": 0.92}
    wrong, right = ([{**flat, "critic/score/mean": mean}] * 3 for mean in (0.05, 0.95))
    assert told(Facts(), *wrong) == told(Facts(), *right) == {"groups without spread": 3}
    assert names(text(Facts(), *wrong), "92% or more", "solved by none", "0.05, of 0 to 1", "easier prompts")
    assert names(text(Facts(), *right), "most are solved", "0.95, of 0 to 1", "harder prompts")
    assert told(Facts(compares_groups=False), *wrong) == {}


def test_filtered_groups_are_judged_by_the_scores_before_the_filter() -> None:
    rows = [{"group/zero_spread": 0.95, "group/score_unfiltered": 0.04, "critic/score/mean": 0.5}] * 3
    assert names(text(Facts(filters=True), *rows), "left out", "solved by none", "0.04")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"actor/lr": 0.0}, "learning rate is 0"),
        ({"actor/skipped_steps": 1.0}, "no gradient was finite"),
        ({"actor/grad_norm": 0.0}, "exactly 0"),
    ],
)
def test_a_policy_that_is_not_updated_is_told_with_the_reason(row: dict[str, float], reason: str) -> None:
    assert told(Facts(), *[row] * 3)["no update"] == 3
    assert names(text(Facts(), *[row] * 3), "steps 1 to 3", reason)
    assert "no update" not in told(Facts(), row, row, {}, row)


def test_a_loss_that_counts_no_token_updates_nothing() -> None:
    idle = {name: value for name, value in HEALTHY.items() if name != "actor/grad_norm"}
    watch = Watch(Facts())
    said = [line for step in (1, 2, 3) for line in watch.see(step, idle)]
    assert names(said[0], "step 3", "no token counts")


def test_a_policy_that_rests_is_not_missed() -> None:
    """The steps of `trainer.critic_warmup` log no learning rate of the actor."""
    resting = {name: value for name, value in HEALTHY.items() if not name.startswith("actor/")}
    watch = Watch(Facts())
    assert [line for step in range(1, 6) for line in watch.see(step, resting)] == []


def test_no_update_is_not_told_where_equal_rewards_explain_it() -> None:
    row = {**all_of(1.0), "actor/grad_norm": 0.0}
    assert told(Facts(), *[row] * 5) == {"equal rewards": 3}
    # Later, from another cause, it is.
    assert told(Facts(), *[row] * 3, {}, *[{"actor/lr": 0.0}] * 3) == {"equal rewards": 3, "no update": 7}


@pytest.mark.parametrize("name", ["actor/pg_loss", "train/loss", "critic/d_loss", "critic/vf_loss"])
def test_a_loss_that_is_not_finite_is_named(name: str) -> None:
    assert names(text(Facts(), {}, {name: math.nan}), "step 2", name, LR)
    assert names(text(Facts(), {}, {name: math.inf}), "step 2", name)


def test_a_gradient_that_is_not_finite_names_whose_rate() -> None:
    assert names(text(Facts(), {"actor/skipped_steps": 0.25}), "step 1", "actor/skipped_steps", f"{LR} (now 1e-06)")
    assert names(text(Facts(), {"critic/skipped_steps": 0.25}), "step 1", "critic/skipped_steps", "critic.optim.lr")


def test_cut_responses() -> None:
    cut = [{"response_length/clip_ratio": 0.97}] * 3
    assert told(Facts(), *cut) == {"cut responses": 3}
    assert names(text(Facts(max_response_length=8), *cut), "97% or more", "data.max_response_length=8", "ignore_eos")
    assert told(Facts(runs_on=True), *cut) == {}
    # In GAD's warmup the student learns from the teacher's text.
    assert told(Facts(distils=True), *[{**row, "training/gad_stage": 0.0} for row in cut]) == {}
    assert told(Facts(distils=True), *[{**row, **ADVERSARIAL} for row in cut]) == {"cut responses": 3}


def test_unjudged_responses() -> None:
    rows = [{"reward/errors": 0.4, "reward/abstained": 0.2}] * 2
    assert told(Facts(), *rows) == {"unjudged responses": 2}
    assert names(text(Facts(), *rows), "40%", "20%", "reward.functions")


def test_the_clip_range_of_the_setting_in_force_is_named() -> None:
    rows = [{"actor/pg_clipfrac": 0.62}] * 3
    wide = text(Facts(clip=(0.2, 0.2), lr=1e-3), *rows)
    assert names(wide, "0.2 / 0.2", "widen", f"{LR} (now 0.001)")
    narrow = text(Facts(loss=LOSSES["vanilla"], clip=(3e-4, 4e-4)), *rows)
    assert names(narrow, "0.0003 / 0.0004", "clip_ratio* out", "0.2 / 0.2")
    assert told(Facts(clip=None), *rows) == {}
    # A sequence ratio takes whole responses out: what is much for tokens is usual for it.
    some = [{"actor/pg_clipfrac": 0.45}] * 3
    assert told(Facts(loss=LOSSES["vanilla"], clip=(0.2, 0.2)), *some) == {"mostly clipped": 3}
    assert told(Facts(loss=LOSSES["gspo"], clip=(3e-4, 4e-4)), *some) == {}
    assert told(Facts(loss=LOSSES["gspo"], clip=(3e-4, 4e-4)), *rows) == {"mostly clipped": 3}


def test_the_reference_counts_only_where_the_loss_has_it() -> None:
    rows = [{"actor/kl_loss": 2.4}] * 3
    assert told(Facts(kl_per_token=True), *rows) == {"far from the reference": 3}
    assert told(Facts(kl_per_token=False), *rows) == {}


def test_a_saturated_discriminator() -> None:
    pinned = {**ADVERSARIAL, "critic/d_acc": 0.99}
    facts = Facts(distils=True)
    assert told(facts, *[pinned] * 5) == {"saturated discriminator": 5}
    # While it trains alone, the student does not depend on it.
    alone = {**pinned, "training/gad_stage": 1.0}
    assert told(facts, *[alone] * 5, *[pinned] * 5) == {"saturated discriminator": 10}
    assert told(facts, *[alone] * 10) == {}


def test_a_discriminator_at_chance_is_one_that_never_learned() -> None:
    chance = {**ADVERSARIAL, "critic/d_acc": 0.49, "critic/d_loss": 0.69}
    facts = Facts(distils=True)
    assert told(facts, *[chance] * 10) == {"discriminator at chance": 10}
    # One that told pairs apart before has a student that has caught up.
    assert told(facts, {**ADVERSARIAL, "critic/d_loss": 0.4}, *[chance] * 12) == {}
    # A margin raises the loss at chance: softplus(margin / temperature).
    config = load_config(
        overrides=["critic.enable=true", "critic.discriminator.margin=1.0", "critic.discriminator.temperature=2.0"]
    )
    assert Facts.of(config).chance_loss == pytest.approx(-math.log(1 / (1 + math.exp(0.5))))
    with_margin = [{**chance, "critic/d_loss": 0.974}] * 10
    assert told(Facts.of(config), *with_margin) == {"discriminator at chance": 10}


def test_a_supervised_loss_that_rises() -> None:
    rows = [{"train/loss": 2.0}, {"train/loss": 2.4}, *[{"train/loss": 2.6}] * 3]
    assert told(Facts(), *rows) == {"rising loss": 5}
    assert told(Facts(), *[{"train/loss": 2.0 + 0.1 * step} for step in range(5)]) == {}


def test_a_slow_step_is_told_where_others_use_the_cores() -> None:
    usual = {"timing_s/step": 1.2, "perf/throughput": 5000.0, "perf/cores_others": 0.1}
    slow = {"timing_s/step": 20.0, "perf/throughput": 300.0}
    beside = {**slow, "perf/cores_others": 1.02}
    assert told(Facts(), *[usual] * 4, beside) == {"slow step": 5}
    said = text(Facts(), *[usual] * 4, beside)
    assert names(said, "20s", "1.2s", "1.02 of this one's cores", "trainer.num_threads", "GOMP_SPINCOUNT=1000")
    assert told(Facts(), *[usual] * 4, slow) == {}  # nobody else is there: it had more to do
    more = {"timing_s/step": 20.0, "perf/throughput": 4000.0, "perf/cores_others": 1.0}
    assert told(Facts(), *[usual] * 4, more) == {}  # long responses
    assert told(Facts(), *[usual] * 3, beside) == {}
    assert told(Facts(), *[usual] * 4, {**beside, "timing_s/step": 6.1}) == {}


def test_each_warning_is_told_once_and_again_in_the_summary() -> None:
    watch = Watch(Facts())
    rows = [
        {**HEALTHY, "actor/ppo_kl": 2.0},
        HEALTHY,
        {**HEALTHY, "actor/ppo_kl": 3.0},
        *[{**HEALTHY, "actor/lr": 0.0}] * 3,
    ]
    said = [watch.see(step, row) for step, row in enumerate(rows, 1)]
    assert [len(lines) for lines in said] == [1, 0, 0, 0, 0, 1]
    summary = watch.summary()
    assert "\n" not in summary
    assert names(summary, "collapse (step 1", "no update (step 6", LR)


def test_a_resumed_run_does_not_repeat_what_it_has_told() -> None:
    records: list[dict[str, Any]] = [
        {"step": 0, "val-core/a/acc/mean@1": 0.1},
        {"step": 1, **HEALTHY, "actor/ppo_kl": 2.0},
        {"step": 2, **HEALTHY, "actor/pg_loss": None},
        {"step": 3, **HEALTHY, "actor/lr": 0.0},
        {"step": 4, **HEALTHY, "actor/lr": 0.0},
    ]
    whole, resumed = Watch(Facts()), Watch(Facts())
    for record in records[1:3]:
        whole.see(record["step"], {**record, "actor/pg_loss": record["actor/pg_loss"] or math.nan})
    resumed.replay(records, until=2)  # what comes later is done again
    assert resumed.told == whole.told
    assert list(resumed.told) == ["collapse", "not finite"]
    further = [
        [each.see(step, {**HEALTHY, "actor/lr": 0.0, "actor/ppo_kl": 2.0}) for step in (3, 4, 5)]
        for each in (whole, resumed)
    ]
    assert further[0] == further[1]
    assert resumed.told["no update"].step == 5


def test_facts_are_those_of_the_setting_in_force() -> None:
    facts = Facts.of(
        load_config(
            overrides=[
                "actor_rollout_ref.actor.policy_loss=gspo",
                "actor_rollout_ref.actor.ppo_mini_batch_size=3",
                "actor_rollout_ref.actor.ppo_epochs=2",
                "actor_rollout_ref.actor.optim.lr=1e-5",
                "actor_rollout_ref.actor.use_kl_loss=true",
                "actor_rollout_ref.rollout.n=1",
                "data.train_batch_size=8",
                "data.max_response_length=99",
                "custom_reward_function.path=reward.py",
            ]
        )
    )
    assert (facts.loss.name, facts.clip, facts.updates, facts.lr) == ("gspo", (3e-4, 4e-4), 6, 1e-5)
    assert (facts.n, facts.compares_groups, facts.max_response_length) == (1, False, 99)
    assert (facts.kl_per_token, facts.reward_key) == (True, "custom_reward_function.path")
    assert Facts.of(load_config()).reward_key == "by the rows' data_source"
    assert Facts.of(load_config(overrides=["reward.functions=[{name: gym}]"])).reward_key == "reward.functions"
    assert Facts.of(load_config(), own_rewards=True).reward_key == "rewards="
    summed = load_config(
        overrides=[
            "actor_rollout_ref.actor.use_kl_loss=true",
            "actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-sum",
        ]
    )
    assert not Facts.of(summed).kl_per_token


def test_the_table_names_each_rule_once_and_only_names_that_are_in_it() -> None:
    known = [rule.name for rule in RULES]
    assert len(set(known)) == len(known)
    for rule in RULES:
        assert {*rule.explained_by, *rule.after} <= set(known) - {rule.name}
        assert rule.keys
