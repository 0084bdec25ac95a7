"""From scored groups to advantages: which responses take part, what their tokens are rewarded, what that is worth."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gspo.algorithms import get_adv_estimator_fn, kl_penalty
from gspo.algorithms.kl import AdaptiveKLController, FixedKLController
from gspo.algorithms.stats import Mean, Stat
from gspo.config.schema import AlgorithmConfig
from gspo.groups import Group, GroupBatch
from gspo.world import World, count

__all__ = ["add_advantages", "add_rewards", "advantages_of", "with_rewards"]


def with_rewards(groups: list[Group], compares_groups: bool, world: World) -> list[Group]:
    """The groups with the responses that have a reward; what a scorer abstained from or failed on takes no part.

    A response that is left alone in its group has nothing to be compared with: it takes no part either, unless the
    advantage does not compare. (With `rollout.n=1` every response is alone, and its reward is its advantage.)

    Raises:
        ValueError: none has a reward, on no rank.
    """
    kept = [replace(group, responses=[r for r in group.responses if r.reward is not None]) for group in groups]
    if not world.any(any(group.responses for group in kept)):
        raise ValueError(_without_any(groups, world))
    if not compares_groups:
        return [group for group in kept if group.responses]
    compared = [
        group for group, whole in zip(kept, groups, strict=True) if len(group.responses) > (len(whole.responses) > 1)
    ]
    if not world.any(bool(compared)):
        raise ValueError(
            "in every group of this step a reward was given to one response at most, so none can be compared with "
            "another: fix the rows or the reward function, or raise actor_rollout_ref.rollout.n"
        )
    return compared


def _without_any(groups: list[Group], world: World) -> str:
    number = count(world, sum(len(group.responses) for group in groups))
    if not groups:
        return f"none of the {number} responses of this step has a reward: fix the rows or the reward function"
    first = groups[0].responses[0].outcome
    reason = (first.abstained or first.error) if first is not None else "it was not scored"
    return (
        f"none of the {number} responses of this step has a reward; the first, {groups[0].prompt.uid}, response 0: "
        f"{reason}. Fix the rows or the reward function"
    )


def add_rewards(
    batch: GroupBatch, controller: AdaptiveKLController | FixedKLController, algorithm: AlgorithmConfig, world: World
) -> dict[str, Stat]:
    """`token_level_rewards`: the scores, less the divergence from the reference where `use_kl_in_reward` asks for it.

    An adaptive controller moves its weight by the batch's divergence (Ziegler et al. 2019, arXiv 1909.08593, sec. 2.2),
    that of all ranks.
    """
    if not algorithm.use_kl_in_reward:
        batch["token_level_rewards"] = batch["token_level_scores"]
        return {}
    mask = batch["response_mask"]
    divergence = kl_penalty(batch["old_log_probs"], batch["ref_log_prob"], algorithm.kl_penalty) * mask
    weight = controller.value
    batch["token_level_rewards"] = batch["token_level_scores"] - weight * divergence
    per_response = divergence.sum(-1) / mask.sum(-1).clamp(min=1)
    num_responses = count(world, len(batch))
    current = float(world.sum(per_response.sum()) / num_responses)
    controller.update(current_kl=current, n_steps=num_responses)
    return {"actor/reward_kl_penalty": Mean(current), "actor/reward_kl_penalty_coeff": Mean(weight)}


def add_advantages(batch: GroupBatch, algorithm: AlgorithmConfig, world: World) -> None:
    """`advantages` and `returns` from `token_level_rewards`, by `algorithm.adv_estimator`.

    An estimator is called with the arguments that its signature names, of those offered here.
    """
    estimator = get_adv_estimator_fn(algorithm.adv_estimator)
    reward_terms, reward_weights = _reward_terms(batch)
    offered = {
        "token_level_rewards": batch["token_level_rewards"],
        "response_mask": batch["response_mask"],
        "index": batch.group_index,
        "values": batch.tensors.get("values"),
        "gamma": algorithm.gamma,
        "lam": algorithm.lam,
        "reward_terms": reward_terms,
        "reward_weights": reward_weights,
        "norm_adv_by_std_in_grpo": algorithm.norm_adv_by_std_in_grpo,
        "sum_over_ranks": world.sum if world.size > 1 else None,
        "config": algorithm,
    }
    batch["advantages"], batch["returns"] = estimator(**_accepted(estimator, offered))


def advantages_of(groups: list[Group], batch: GroupBatch) -> list[float | None] | None:
    """Each response's advantage, the mean over its tokens; None for one that is not in the batch.

    Args:
        groups: those that were sampled.
        batch: the responses of them that were trained on, the same objects.

    Returns:
        one for each response of `groups`, side by side; None where the batch has no advantages.
    """
    if "advantages" not in batch.tensors:
        return None
    mask = batch["response_mask"]
    means = ((batch["advantages"] * mask).sum(-1) / mask.sum(-1).clamp(min=1)).tolist()
    trained = [response for group in batch.groups for response in group.responses]
    found = {id(response): mean for response, mean in zip(trained, means, strict=True)}
    return [found.get(id(response)) for group in groups for response in group.responses]


def _reward_terms(batch: GroupBatch) -> tuple[Tensor, Tensor]:
    """The rewards that each response's score adds up, and their weights: 0 where a response has no such reward.

    A score that is one number is its own only term. (responses, rewards) both
    """
    outcomes = [response.outcome for group in batch.groups for response in group.responses]
    rows = [outcome.terms or {"score": (1.0, outcome.value or 0.0)} for outcome in outcomes if outcome is not None]
    names = sorted({name for row in rows for name in row})
    both = torch.tensor([[row.get(name, (0.0, 0.0)) for name in names] for row in rows])
    weights, values = both.to(batch["response_mask"]).reshape(len(rows), len(names), 2).unbind(-1)
    return values, weights


def _accepted(function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a function takes by name; all of them where it takes any."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return offered
    return {name: value for name, value in offered.items() if name in parameters}
