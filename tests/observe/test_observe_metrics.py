"""Batch metrics against plain Python, over parts as over the whole; the phase clock against a scripted one."""

import random
import statistics

import pytest
import torch

from gspo.algorithms.stats import merge_stats, to_floats
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.observe.metrics import PhaseClock, batch_metrics, throughput_metrics


def make_groups() -> list[Group]:
    draw = random.Random(0)
    groups = []
    for number, rewards in enumerate([[1.0, 1.0, 1.0], [0.0, 1.0], [0.5], [0.25, -1.0, 0.25, 0.0]]):
        prompt = Prompt(f"f:{number}", (1,) * (number + 2), "p", "s")
        responses = []
        for reward in rewards:
            length = draw.randint(1, 6)
            mask = [True] * length
            mask[0] = length == 1 or draw.random() < 0.5
            reason = "length" if length == 6 or draw.random() < 0.3 else "stop"
            responses.append(Response([7] * length, [-0.5] * length, "r", reason, mask, Outcome(reward)))
        groups.append(Group(prompt, responses))
    return groups


def oracle(groups: list[Group], tokens: list[list[float]]) -> dict[str, float]:
    responses = [response for group in groups for response in group.responses]
    series = {
        "critic/score": [response.reward for response in responses],
        "critic/rewards": [response.reward - 0.125 for response in responses],
        "critic/advantages": [
            a for row, r in zip(tokens, responses, strict=True) for a, m in zip(row, r.loss_mask, strict=True) if m
        ],
        "prompt_length": [len(group.prompt.token_ids) for group in groups for _ in group.responses],
        "response_length": [len(response.token_ids) for response in responses],
    }
    result = {}
    for name, values in series.items():
        result |= {f"{name}/mean": sum(values) / len(values), f"{name}/max": max(values), f"{name}/min": min(values)}
    values = series["critic/advantages"]
    result["critic/advantages/std"] = statistics.pstdev(values)
    result["response_length/clip_ratio"] = sum(r.finish_reason == "length" for r in responses) / len(responses)
    result["group/zero_spread"] = 2 / 4  # the first group and the group of one
    result["group/all_right"], result["group/all_wrong"] = 2 / 4, 0.0
    return result


def make_batch(groups: list[Group], tokens: list[list[float]]) -> GroupBatch:
    batch = GroupBatch.from_groups(groups)
    rewards = batch["token_level_scores"].clone()
    rewards[:, 0] -= 0.125
    advantages = torch.full_like(rewards, 1e6)  # what stands outside of the mask must not count
    for row, values in enumerate(tokens):
        for column, (value, written) in enumerate(zip(values, batch["response_mask"][row].tolist(), strict=False)):
            if written:
                advantages[row, column] = value
    batch["token_level_rewards"], batch["advantages"] = rewards, advantages
    return batch


def test_batch_metrics_are_the_oracle_s_whole_and_in_parts() -> None:
    groups = make_groups()
    draw = random.Random(1)
    tokens = [[draw.gauss(0, 1) for _ in response.token_ids] for group in groups for response in group.responses]
    batch = make_batch(groups, tokens)
    expected = pytest.approx(oracle(groups, tokens), abs=1e-6)
    assert to_floats(batch_metrics(batch)) == expected
    parts = [batch.select([0, 3]), batch.select([1]), batch.select([2])]
    assert to_floats(merge_stats(map(batch_metrics, parts))) == expected


def test_groups_without_a_signal_are_solved_or_hopeless() -> None:
    """By the accuracy where the reward function gives one, else by the sign; a discriminator's score says neither."""
    teacher = Response([7], [0.0], "t", "stop")
    cases: list[tuple[list[Outcome], Response | None]] = [
        ([Outcome(1.0), Outcome(1.0)], None),  # right
        ([Outcome(0.0), Outcome(0.0)], None),  # wrong
        ([Outcome(0.1, {"acc": 0.0}), Outcome(0.1, {"acc": 0.0})], None),  # wrong, with a reward for the format
        ([Outcome(-0.5, {"acc": 1.0})] * 2, None),  # right, with a penalty
        ([Outcome(0.3), Outcome(0.3)], teacher),  # neither
        ([Outcome(1.0, {"acc": 1.0}), Outcome(0.5, {"acc": 1.0})], None),  # all right, and yet with a signal
        ([Outcome(0.0), Outcome(1.0)], None),
        ([Outcome(0.0), Outcome(error="timed out")], None),  # wrong, as far as it was judged
    ]
    groups = [
        Group(Prompt(f"f:{i}", (1,), "p", "s"), [Response([7], [0.0], "r", "stop", outcome=o) for o in outs], teacher)
        for i, (outs, teacher) in enumerate(cases)
    ]
    metrics = to_floats(batch_metrics(GroupBatch.from_groups(groups, scored=False)))
    found = {name: metrics[f"group/{name}"] for name in ("zero_spread", "all_right", "all_wrong")}
    assert found == {"zero_spread": 6 / 8, "all_right": 2 / 8, "all_wrong": 3 / 8}


def test_a_batch_without_written_tokens_has_no_advantages() -> None:
    response = Response([], [], "", "length", outcome=Outcome(0.0))
    batch = GroupBatch.from_groups([Group(Prompt("f:1", (1,), "p", "s"), [response])])
    batch["advantages"] = torch.zeros(1, 1)
    metrics = to_floats(batch_metrics(batch))
    assert metrics["response_length/max"] == 0
    assert metrics["response_length/clip_ratio"] == 1
    assert not any(name.startswith(("critic/advantages", "critic/returns")) for name in metrics)


def test_clock_adds_up_nested_and_repeated_phases_and_starts_anew() -> None:
    times = iter([0.0, 1.0, 3.0, 4.0, 8.0, 10.0])
    began: list[str] = []
    counted: list[tuple[int, int]] = []
    clock = PhaseClock(
        on_phase=began.append, now=lambda: next(times), on_count=lambda done, total: counted.append((done, total))
    )
    with clock("step"):
        with clock("gen", total=5) as ended:
            ended(2)
            ended(3)
        with clock("gen"):
            pass
    assert clock.pop() == {"timing_s/gen": 6.0, "timing_s/step": 10.0}
    assert began == ["step", "gen", "step", "gen", "step", ""]
    assert counted == [(2, 5), (5, 5)]
    assert clock.pop() == {}


def test_clock_lets_exceptions_pass_and_keeps_the_time() -> None:
    times = iter([1.0, 3.0])
    clock = PhaseClock(now=lambda: next(times))
    with pytest.raises(RuntimeError, match="stop"), clock("gen"):
        raise RuntimeError("stop")
    assert clock.pop() == {"timing_s/gen": 2.0}


def test_throughput_is_per_device() -> None:
    assert throughput_metrics(1000, 4.0, num_devices=2) == {
        "perf/total_num_tokens": 1000.0,
        "perf/time_per_step": 4.0,
        "perf/throughput": 125.0,
    }
