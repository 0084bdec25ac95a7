"""Which responses take part in an update, where a scorer abstained from some or failed on them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gspo.config import load_config
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.trainer import opened
from gspo.trainer.advantages import advantages_of, with_rewards
from gspo.world import Alone

_LEFT_OUT = (Outcome(abstained="no answer"), Outcome(error="timed out"))


def group(*rewards: float | None) -> Group:
    """A response for each reward; None alternates between an abstention and an error."""
    outcomes = [_LEFT_OUT[i % 2] if reward is None else Outcome(reward) for i, reward in enumerate(rewards)]
    return Group(Prompt("f:0", (1,), "", ""), [Response([1], [0.0], "", "stop", outcome=o) for o in outcomes])


def judged(groups: list[Group], *, compares_groups: bool = True) -> list[Group]:
    return with_rewards(groups, compares_groups, Alone())


def rewards(groups: list[Group]) -> list[list[float | None]]:
    return [[response.reward for response in each.responses] for each in groups]


def test_a_response_left_alone_has_nothing_to_be_compared_with() -> None:
    groups = [group(1.0, None, 2.0), group(6.0, None), group(None, None)]
    assert rewards(judged(groups)) == [[1.0, 2.0]]


def test_an_advantage_without_groups_keeps_it() -> None:
    groups = [group(1.0, None, 2.0), group(6.0, None), group(None, None)]
    assert rewards(judged(groups, compares_groups=False)) == [[1.0, 2.0], [6.0]]


@pytest.mark.parametrize(
    ("estimator", "compares"), [("grpo", True), ("rloo", True), ("gae", False), ("reinforce_plus_plus", False)]
)
def test_which_advantages_compare(estimator: str, compares: bool, run_overrides: Callable[..., list[str]]) -> None:
    with opened(load_config(overrides=run_overrides(f"algorithm.adv_estimator={estimator}"))) as run:
        assert run.compares_groups is compares


def test_one_response_for_each_prompt_is_kept_as_it_was_asked_for() -> None:
    assert rewards(judged([group(3.0), group(None), group(4.0)])) == [[3.0], [4.0]]


def test_a_step_in_which_nothing_can_be_compared_says_so() -> None:
    with pytest.raises(ValueError, match="one response at most, so none can be compared"):
        judged([group(3.0, None), group(None, 4.0)])


def test_advantages_come_back_to_the_responses_that_were_sampled() -> None:
    """Each is its own mean over its tokens, also where responses and whole groups before it took no part."""
    groups = [group(None, None), group(1.0, None, 2.0), group(5.0, 3.0)]
    batch = GroupBatch.from_groups(judged(groups))
    assert advantages_of(groups, batch) is None
    batch["advantages"] = torch.tensor([[0.25], [-0.5], [1.0], [-1.0]])
    assert advantages_of(groups, batch) == [None, None, 0.25, None, -0.5, 1.0, -1.0]


def test_an_advantage_of_tokens_is_their_mean() -> None:
    response = Response([1, 2, 3], [0.0] * 3, "", "stop", loss_mask=[True, False, True], outcome=Outcome(1.0))
    groups = [Group(Prompt("f:0", (1,), "", ""), [response])]
    batch = GroupBatch.from_groups(groups)
    batch["advantages"] = torch.tensor([[1.0, 9.0, 2.0]])
    assert advantages_of(groups, batch) == [1.5]
