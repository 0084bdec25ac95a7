"""The stages of a training step: what each takes from the groups and what it leaves with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gspo.algorithms import (
    agg_loss,
    compute_rollout_correction_and_rejection_mask,
    get_adv_estimator_fn,
    get_policy_loss_fn,
    kl_penalty,
)
from gspo.algorithms.kl import AdaptiveKLController, FixedKLController
from gspo.algorithms.settings import PolicyLossConfig
from gspo.algorithms.stats import Max, Mean, Stat, merge_stats
from gspo.config import Config
from gspo.config.schema import ActorConfig, CriticConfig
from gspo.groups import Group, GroupBatch
from gspo.models import Policy, micro_batches
from gspo.trainer.actor import Actor
from gspo.trainer.values import value_terms

__all__ = [
    "add_advantages",
    "add_log_probs",
    "add_reference",
    "add_rewards",
    "correct_rollout",
    "judged",
    "loss_mask",
    "loss_settings",
    "mini_batches",
    "update_actor",
]


# Advantages that do not compare the responses of a group.
_WITHOUT_GROUPS = ("gae", "reinforce_plus_plus")


def judged(groups: list[Group], adv_estimator: str = "grpo") -> list[Group]:
    """The groups with the responses that have a reward; what a scorer abstained from or failed on takes no part.

    A response that is left alone in its group has nothing to be compared with: it takes no part either, unless the
    advantage does not compare. (With `rollout.n=1` every response is alone, and its reward is its advantage.)

    Raises:
        ValueError: none has a reward.
    """
    kept = [replace(group, responses=[r for r in group.responses if r.reward is not None]) for group in groups]
    if not any(group.responses for group in kept):
        first = groups[0].responses[0].outcome
        reason = (first.abstained or first.error) if first is not None else "it was not scored"
        raise ValueError(
            f"none of the {sum(len(group.responses) for group in groups)} responses of this step has a reward; the "
            f"first, {groups[0].prompt.uid}, response 0: {reason}. Mend the rows or the reward function"
        )
    if adv_estimator in _WITHOUT_GROUPS:
        return [group for group in kept if group.responses]
    compared = [
        group for group, whole in zip(kept, groups, strict=True) if len(group.responses) > (len(whole.responses) > 1)
    ]
    if not compared:
        raise ValueError(
            "in every group of this step a reward was given to one response at most, so none can be compared with "
            "another: mend the rows or the reward function, or raise actor_rollout_ref.rollout.n"
        )
    return compared


@torch.no_grad()
def add_log_probs(batch: GroupBatch, policy: Policy, config: Config) -> dict[str, Stat]:
    """`old_log_probs`: each token's log-probability under the policy before it is updated.

    With a value head on the policy's backbone also `values`, from the same pass.
    """
    rollout = config.actor_rollout_ref.rollout
    log_probs, entropies, values = [], [], []
    for part in micro_batches(batch, rollout.log_prob_max_token_len_per_gpu):
        log_prob, entropy, value = policy.log_probs_and_values(part, rollout.temperature, with_entropy=True)
        log_probs.append(log_prob)
        entropies.append(entropy)
        if value is not None:
            values.append(value)
    batch["old_log_probs"] = torch.cat(log_probs).float()
    if values:
        batch["values"] = torch.cat(values)
    mask = batch["response_mask"]
    drift = (batch["old_log_probs"].exp() - batch["rollout_log_probs"].exp()).abs() * mask
    return {
        "actor/entropy": Mean.masked(torch.cat(entropies), mask),
        "training/rollout_probs_diff_mean": Mean.masked(drift, mask),
        "training/rollout_probs_diff_max": Max(drift.max()),
    }


@torch.no_grad()
def add_reference(batch: GroupBatch, reference: Policy, config: Config) -> None:
    """`ref_log_prob`: each token's log-probability under the reference policy."""
    temperature = config.actor_rollout_ref.rollout.temperature
    parts = micro_batches(batch, config.actor_rollout_ref.ref.log_prob_max_token_len_per_gpu)
    batch["ref_log_prob"] = torch.cat([reference.log_probs(part, temperature)[0] for part in parts]).float()


def add_rewards(
    batch: GroupBatch, controller: AdaptiveKLController | FixedKLController, config: Config
) -> dict[str, Stat]:
    """`token_level_rewards`: the scores, less the divergence from the reference where `use_kl_in_reward` asks for it.

    An adaptive controller moves its weight by the batch's divergence (Ziegler et al. 2019, arXiv 1909.08593, sec. 2.2).
    """
    if not config.algorithm.use_kl_in_reward:
        batch["token_level_rewards"] = batch["token_level_scores"]
        return {}
    mask = batch["response_mask"]
    divergence = kl_penalty(batch["old_log_probs"], batch["ref_log_prob"], config.algorithm.kl_penalty) * mask
    weight = controller.value
    batch["token_level_rewards"] = batch["token_level_scores"] - weight * divergence
    per_response = divergence.sum(-1) / mask.sum(-1).clamp(min=1)
    current = float(per_response.mean())
    controller.update(current_kl=current, n_steps=len(batch))
    return {"actor/reward_kl_penalty": Mean(current), "actor/reward_kl_penalty_coeff": Mean(weight)}


def add_advantages(batch: GroupBatch, config: Config) -> None:
    """`advantages` and `returns` from `token_level_rewards`, by `algorithm.adv_estimator`.

    An estimator is called with the arguments that its signature names, of those offered here.
    """
    algorithm = config.algorithm
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
        "config": algorithm,
    }
    batch["advantages"], batch["returns"] = estimator(**_accepted(estimator, offered))


def _reward_terms(batch: GroupBatch) -> tuple[Tensor, Tensor]:
    """The rewards that each response's score adds up, and their weights: 0 where a response has no such reward.

    A score that is one number is its own only term. (responses, rewards) both
    """
    outcomes = [response.outcome for group in batch.groups for response in group.responses]
    rows = [outcome.terms or {"score": (1.0, outcome.value or 0.0)} for outcome in outcomes if outcome is not None]
    names = sorted({name for row in rows for name in row})
    both = torch.tensor([[row.get(name, (0.0, 0.0)) for name in names] for row in rows])
    weights, values = both.to(batch["response_mask"]).unbind(-1)
    return values, weights


def _accepted(function: Callable[..., Any], offered: dict[str, Any]) -> dict[str, Any]:
    """The arguments that a function takes by name; all of them where it takes any."""
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return offered
    return {name: value for name, value in offered.items() if name in parameters}


def correct_rollout(batch: GroupBatch, config: Config) -> dict[str, Stat]:
    """`rollout_is_weights` and `kept_mask`, as `algorithm.rollout_correction` asks: weights of the policy loss, and
    the tokens that it counts. Advantages and values are of all tokens; pi_old stays the trainer's own.
    """
    settings = config.algorithm.rollout_correction
    if not settings.active:
        return {}
    weights, kept, stats = compute_rollout_correction_and_rejection_mask(
        batch["old_log_probs"],
        batch["rollout_log_probs"],
        batch["response_mask"],
        rollout_is=settings.rollout_is,
        rollout_is_threshold=settings.rollout_is_threshold,
        rollout_rs=settings.rollout_rs,
        rollout_rs_threshold=settings.rollout_rs_threshold,
    )
    batch["kept_mask"] = kept
    if weights is not None:
        batch["rollout_is_weights"] = weights
    return stats


def loss_mask(batch: GroupBatch) -> Tensor:
    """Which tokens the policy's losses and their normalisers count: those it wrote, less those rejected."""
    return batch.tensors.get("kept_mask", batch["response_mask"])


def loss_settings(config: Config, batch: GroupBatch) -> PolicyLossConfig:
    """The numbers of the policy loss, with the normalisers of a whole optimizer batch."""
    actor = config.actor_rollout_ref.actor
    mask = loss_mask(batch)
    return PolicyLossConfig(
        clip_ratio=actor.clip_ratio,
        clip_ratio_low=actor.clip_ratio_low,
        clip_ratio_high=actor.clip_ratio_high,
        clip_ratio_c=actor.clip_ratio_c,
        loss_scale_factor=actor.loss_scale_factor,
        tau_pos=actor.policy_loss.tau_pos,
        tau_neg=actor.policy_loss.tau_neg,
        global_batch_info={"batch_num_tokens": mask.sum(), "global_batch_size": (mask.sum(-1) > 0).sum()},
    )


def mini_batches(
    batch: GroupBatch, config: Config, step: int, updates: ActorConfig | CriticConfig | None = None
) -> Iterator[GroupBatch]:
    """The optimizer batches of one step: `ppo_mini_batch_size` prompts each, `ppo_epochs` times over.

    Args:
        batch: the step's groups.
        config: the configuration.
        step: number of the step, of which a shuffled order is drawn.
        updates: the section that says how they are cut; the actor's where none is given.
    """
    updates = updates or config.actor_rollout_ref.actor
    count = len(batch.groups)
    size = updates.ppo_mini_batch_size or count
    for epoch in range(updates.ppo_epochs):
        order = np.arange(count)
        if updates.shuffle:
            order = np.random.default_rng([config.trainer.seed, step, epoch]).permutation(count)
        for start in range(0, count, size):
            yield batch.select(order[start : start + size].tolist())


def update_actor(batch: GroupBatch, actor: Actor, config: Config, step: int) -> dict[str, Stat]:
    """The policy's updates of one step.

    A batch without `old_log_probs` is trained in a single optimizer step: the policy is then its own old policy.
    """
    stats: list[dict[str, Stat]] = [{"actor/lr": Mean(actor.lr)}]
    for mini_batch in mini_batches(batch, config, step):
        if not bool(loss_mask(mini_batch).any()):
            continue
        stats += _accumulate(mini_batch, actor.policy, config)
        stats.append(actor.step())
    actor.advance()
    return merge_stats(stats)


def _accumulate(mini_batch: GroupBatch, policy: Policy, config: Config) -> Iterator[dict[str, Stat]]:
    """Gradients of one optimizer batch, micro-batch by micro-batch."""
    actor, temperature = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.temperature
    loss_fn = get_policy_loss_fn(actor.policy_loss.loss_mode)
    settings, mode = loss_settings(config, mini_batch), actor.loss_agg_mode or "token-mean"
    normalisers = {**settings.global_batch_info, "loss_scale_factor": actor.loss_scale_factor}
    max_responses = None if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
    max_tokens = actor.ppo_max_token_len_per_gpu
    parts = list(micro_batches(mini_batch, max_tokens, max_responses))

    def share(loss: Tensor) -> Mean:
        """A part of the optimizer batch's loss: the parts add up to one loss of count one."""
        return Mean(loss.detach(), 1 / len(parts))

    for part in parts:
        mask = loss_mask(part)
        own_old = "old_log_probs" not in part.tensors
        wants_entropy = own_old or actor.entropy_coeff != 0
        log_prob, entropy, values = policy.log_probs_and_values(part, temperature, with_entropy=wants_entropy)
        old_log_prob = log_prob.detach() if own_old else part["old_log_probs"]
        loss, stats = loss_fn(
            old_log_prob=old_log_prob,
            log_prob=log_prob,
            advantages=part["advantages"],
            response_mask=mask,
            loss_agg_mode=mode,
            config=settings,
            rollout_is_weights=part.tensors.get("rollout_is_weights"),
        )
        stats = {**stats, "actor/pg_loss": share(loss)}
        if own_old:
            stats["actor/entropy"] = Mean.masked(entropy, mask)
        if actor.entropy_coeff != 0:
            loss = loss - actor.entropy_coeff * agg_loss(entropy, mask, mode, **normalisers)
        if actor.use_kl_loss:
            divergence = kl_penalty(log_prob, part["ref_log_prob"], actor.kl_loss_type)
            kl_loss = agg_loss(divergence, mask, mode, **normalisers)
            loss = loss + actor.kl_loss_coef * kl_loss
            stats |= {"actor/kl_loss": share(kl_loss), "actor/kl_coef": Mean(actor.kl_loss_coef)}
        if values is not None:
            value_loss, value_stats = value_terms(values, part, mini_batch, len(parts), config.critic)
            loss, stats = loss + config.critic.value_loss_coef * value_loss, stats | value_stats
        loss.backward()
        yield stats
