"""Dynamic sampling: which groups teach something, refilling, its bounds, its figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from messages import names

from gspo.algorithms.stats import Mean, Stat, to_floats
from gspo.config import Config, ConfigError, load_config, require_supported
from gspo.groups import Group, Outcome, Prompt, Response
from gspo.trainer import train
from gspo.trainer.collector import FilteringCollector, spreads
from gspo.world import Alone

Overrides = Callable[..., list[str]]


def make_group(uid: str, rewards: Sequence[float | None], acc: Sequence[float] | None = None) -> Group:
    outcomes = [
        Outcome(abstained="no ground truth") if reward is None else Outcome(reward, {"acc": acc[i]} if acc else {})
        for i, reward in enumerate(rewards)
    ]
    responses = [Response([5], [-1.0], "a", "stop", outcome=outcome) for outcome in outcomes]
    return Group(Prompt(uid, (4,), "p", "source"), responses)


def make_config(batch: int, most: int, metric: str = "score") -> Config:
    return load_config(
        overrides=[
            "algorithm.filter_groups.enable=true",
            f"algorithm.filter_groups.metric={metric}",
            f"algorithm.filter_groups.max_num_gen_batches={most}",
            f"data.train_batch_size={batch}",
        ]
    )


def run_sampling(
    batches: list[list[Group]], config: Config, batches_per_epoch: int = 100
) -> tuple[list[str], dict[str, float], list[set[str]], list[str]]:
    """(uids kept, figures, what each batch was told to leave out, notices)"""
    left, asked, said = iter(batches), list[Any](), list[str]()
    wanted = config.data.train_batch_size

    class Collector:
        def sample(self, step: int, seen: Container[str] = (), first_place: int = 0) -> list[Group]:
            assert step == 7
            assert first_place == len(asked) * wanted
            asked.append(seen)
            groups = next(left)
            for place, group in enumerate(groups, first_place):
                group.place = place
            return groups

        def score(self, groups: Sequence[Group]) -> dict[str, Stat]:
            return {"reward/calls": Mean(1.0, float(len(groups)))}

    settings = config.algorithm.filter_groups
    filtering = FilteringCollector(cast("Any", Collector()), settings, wanted, batches_per_epoch, said.append, Alone())
    groups, stats, num_tokens = filtering.collect(step=7)
    sampled = batches[: len(asked)]
    assert num_tokens == sum(group.num_tokens for groups_of_batch in sampled for group in groups_of_batch)
    return [group.prompt.uid for group in groups], to_floats(stats), asked, said


@pytest.mark.parametrize(
    ("rewards", "useful"),
    [((1, 1, 1), False), ((0, 0), False), ((1, 0), True), ((1, None), False), ((1, None, 0), True), ((0.5,), False)],
)
def test_which_groups_spread(rewards: tuple[float | None, ...], useful: bool) -> None:
    assert spreads(make_group("a", rewards), "score") is useful
    assert spreads(make_group("a", rewards), "seq_reward") is useful


def test_accuracy_may_be_what_must_differ() -> None:
    lengthy = make_group("a", [1.0, 0.7], acc=[1.0, 1.0])  # both right, one with a penalty for its length
    assert spreads(lengthy, "score")
    assert not spreads(lengthy, "acc")
    with pytest.raises(ValueError, match="the reward function gave no `acc` for b: set") as caught:
        spreads(make_group("b", [1.0, 0.0]), "acc")
    assert str(caught.value).endswith("algorithm.filter_groups.metric=score")


def test_batches_are_sampled_until_one_is_full() -> None:
    batches = [
        [make_group("a", [1, 1]), make_group("b", [1, 0])],
        [make_group("c", [0, 0]), make_group("d", [0, 0])],
        [make_group("e", [0, 1]), make_group("f", [0.5, 1])],
        [make_group("never", [0, 1])],
    ]
    kept, figures, asked, said = run_sampling(batches, make_config(2, 10))
    assert kept == ["b", "e"]
    assert asked == [set(), {"a", "b"}, {"a", "b", "c", "d"}]
    assert figures == {
        "reward/calls": 3 / 6,
        "train/num_gen_batches": 3.0,
        "group/zero_spread": 3 / 6,
        "group/surplus": 1 / 6,
        "group/score_unfiltered": 5.5 / 12,
    }
    assert said == []


def test_what_is_found_within_the_bound_is_trained_on() -> None:
    batches = [[make_group("a", [1, 1]), make_group("b", [1, 0])], [make_group("c", [0, 0]), make_group("d", [0, 0])]]
    kept, figures, _, said = run_sampling(batches, make_config(2, 2))
    assert kept == ["b"]
    assert figures["train/num_gen_batches"] == 2
    assert said == [
        "algorithm.filter_groups: 1 of 4 groups in 2 batches teach something; the step trains on those instead of 2. "
        "Raise algorithm.filter_groups.max_num_gen_batches for full batches"
    ]


@pytest.mark.parametrize(("most", "batches_per_epoch"), [(2, 100), (0, 2), (10, 2)])
def test_nothing_to_learn_from_is_an_error(most: int, batches_per_epoch: int) -> None:
    batches = [[make_group("a", [1, 1])], [make_group("b", [0, 0])], [make_group("c", [0, 1])]]
    with pytest.raises(ValueError, match="in none of 2 groups in 2 batches") as caught:
        run_sampling(batches, make_config(1, most), batches_per_epoch)
    remedies = ("filter_groups.max_num_gen_batches", "actor_rollout_ref.rollout.n", "filter_groups.enable=false")
    assert names(caught, "algorithm.filter_groups: ", *remedies)


def test_groups_of_one_cannot_be_filtered() -> None:
    with pytest.raises(ConfigError) as caught:
        require_supported(load_config(overrides=["algorithm.filter_groups.enable=true"]))
    assert names(caught, "algorithm.filter_groups.enable=true", "set actor_rollout_ref.rollout.n=8")


# True of a third of random texts: some groups of three spread in it, and some do not.
_REWARD = '''
def compute_score(data_source, solution_str, ground_truth, extra_info):
    """Right where the first character is a letter a to z."""
    right = float(solution_str[:1].islower())
    return {"score": right, "acc": right}
'''
FILTERED = ("algorithm.filter_groups.enable=true", "algorithm.filter_groups.metric=acc", "data.train_batch_size=2")


@pytest.fixture
def reward(tmp_path: Path) -> str:
    (tmp_path / "letters.py").write_text(_REWARD, encoding="utf-8")
    return f"custom_reward_function.path={tmp_path / 'letters.py'}"


def metrics_of(folder: Path) -> list[dict[str, float]]:
    """What each training step logged, but for the times."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    timed = ("timing", "perf/")
    rows = [{key: value for key, value in json.loads(line).items() if not key.startswith(timed)} for line in lines]
    return [row for row in rows if row["step"] > 0]


def test_a_filtered_run_is_resumed_exactly(run_overrides: Overrides, reward: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, ends in ((whole, [4]), (parts, [2, 4])):
        for end in ends:
            length = (f"trainer.total_training_steps={end}", f"trainer.default_local_dir={folder}")
            train(load_config(overrides=run_overrides(*FILTERED, reward, *length)))
    assert metrics_of(parts) == metrics_of(whole)
    sampled = [row["train/num_gen_batches"] for row in metrics_of(whole)]
    assert max(sampled) > 1, "no step was refilled: the test compares nothing"
    assert all(row["group/zero_spread"] > 0 for row in metrics_of(whole) if row["train/num_gen_batches"] > 1)


def test_the_dapo_preset_has_the_papers_values_and_trains(
    run_overrides: Overrides, reward: str, tmp_path: Path
) -> None:
    paper = load_config(None, "dapo")
    actor = paper.actor_rollout_ref.actor
    assert (actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_agg_mode) == (0.2, 0.28, "token-mean")
    assert (paper.data.train_batch_size, paper.actor_rollout_ref.rollout.n, actor.ppo_mini_batch_size) == (512, 16, 32)
    assert (paper.reward.overlong_buffer.len, paper.data.max_response_length) == (4096, 20480)
    assert not paper.uses_reference
    small = [
        *(text for text in run_overrides(reward) if "policy_loss" not in text),
        "reward.overlong_buffer.len=2",
        "trainer.total_training_steps=1",
        "trainer.device=cpu",
    ]
    run = train(load_config(None, "dapo", small))
    (row,) = metrics_of(tmp_path / "run")
    assert run.step == 1
    assert row["actor/grad_norm"] > 0
    assert 1 <= row["train/num_gen_batches"] <= 2  # ten rows are two batches of four
