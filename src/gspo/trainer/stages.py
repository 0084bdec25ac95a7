"""The policy in a training step: its log-probabilities before the updates, and the updates."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gspo.algorithms import (
    agg_loss,
    compute_rollout_correction_and_rejection_mask,
    get_policy_loss_fn,
    kl_penalty,
)
from gspo.algorithms.settings import PolicyLossConfig
from gspo.algorithms.stats import Max, Mean, Stat, merge_stats
from gspo.config import Config
from gspo.config.schema import ActorConfig, CriticConfig
from gspo.groups import GroupBatch
from gspo.models import Policy, micro_batches
from gspo.trainer.actor import Actor
from gspo.trainer.values import value_terms

__all__ = [
    "add_log_probs",
    "add_reference",
    "correct_rollout",
    "loss_mask",
    "loss_settings",
    "mini_batches",
    "update_actor",
    "update_parts",
]

# Losses whose clip acts on the side that the advantage's sign picks: on none where it is zero.
_CLIPS_BY_ADVANTAGE = ("gspo", "gspo_token", "vanilla", "geo_mean")


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
    return {"actor/entropy": Mean.masked(torch.cat(entropies), batch["response_mask"])}


@torch.no_grad()
def add_reference(batch: GroupBatch, reference: Policy, config: Config) -> None:
    """`ref_log_prob`: each token's log-probability under the reference policy."""
    temperature = config.actor_rollout_ref.rollout.temperature
    parts = micro_batches(batch, config.actor_rollout_ref.ref.log_prob_max_token_len_per_gpu)
    batch["ref_log_prob"] = torch.cat([reference.log_probs(part, temperature)[0] for part in parts]).float()


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


def update_parts(batch: GroupBatch, actor: ActorConfig) -> Iterator[GroupBatch]:
    """The micro-batches of the actor's updates, as its section cuts them."""
    max_responses = None if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
    return micro_batches(batch, actor.ppo_max_token_len_per_gpu, max_responses)


def update_actor(
    batch: GroupBatch, actor: Actor, config: Config, step: int, *, with_entropy: bool = True
) -> dict[str, Stat]:
    """The policy's updates of one step.

    A batch without `old_log_probs` is trained in a single optimizer step: the policy is then its own old policy.

    Args:
        batch: the step's groups, with advantages.
        actor: whose policy is updated.
        config: the configuration.
        step: number of the step.
        with_entropy: report the policy's entropy, of the passes that train.
    """
    stats: list[dict[str, Stat]] = [{"actor/lr": Mean(actor.lr)}]
    unmoved = True
    for mini_batch in mini_batches(batch, config, step):
        if not bool(loss_mask(mini_batch).any()):
            continue
        for part, log_prob, part_stats in _accumulate(mini_batch, actor.policy, config, with_entropy):
            stats.append(part_stats)
            if unmoved:
                stats.append(rollout_drift(part, log_prob))
        stats.append(actor.step())
        unmoved = False
    actor.advance()
    return merge_stats(stats)


def rollout_drift(batch: GroupBatch, log_prob: Tensor) -> dict[str, Stat]:
    """How far the probabilities that the samples were drawn with are from those of the policy that drew them."""
    mask = batch["response_mask"]
    drift = (log_prob.exp() - batch["rollout_log_probs"].exp()).abs() * mask
    return {
        "training/rollout_probs_diff_mean": Mean.masked(drift, mask),
        "training/rollout_probs_diff_max": Max(drift.max()),
    }


def _that_teach(mini_batch: GroupBatch, config: Config) -> GroupBatch:
    """The groups to run, the batch itself if that is all: not those of zero advantages, where nothing else reads them.

    Their gradient is zero, and the normalisers of the loss are those of the whole batch. A loss of the user's own may
    have a term without the advantage: it sees every group.
    """
    actor = config.actor_rollout_ref.actor
    loss_fn = get_policy_loss_fn(actor.policy_loss.loss_mode)
    other_terms = actor.use_kl_loss or actor.entropy_coeff != 0 or config.shares_backbone
    if not actor.skip_zero_advantages or other_terms or not loss_fn.__module__.startswith("gspo.algorithms."):
        return mini_batch
    moves = (mini_batch["advantages"] * loss_mask(mini_batch) != 0).any(-1)
    # An optimizer step without a gradient is one still (moments fade, weights decay) and has its figures: of one group.
    teaching = np.unique(mini_batch.group_index[moves.cpu().numpy()]).tolist() or [0]
    return mini_batch if len(teaching) == len(mini_batch.groups) else mini_batch.select(teaching)


def _unclipped(mini_batch: GroupBatch, teaching: GroupBatch) -> dict[str, Stat]:
    """What the groups that are not run add to clip fractions: tokens and responses of which none is clipped."""
    masks = loss_mask(mini_batch), loss_mask(teaching)
    tokens, responses = (
        Mean(0.0, sums(masks[0]) - sums(masks[1]))
        for sums in (lambda mask: mask.sum(), lambda mask: (mask.sum(-1) > 0).sum())
    )
    of_tokens = ("actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/token_clipfrac")
    return {**dict.fromkeys(of_tokens, tokens), "actor/seq_clipfrac": responses}


def _accumulate(
    mini_batch: GroupBatch, policy: Policy, config: Config, with_entropy: bool
) -> Iterator[tuple[GroupBatch, Tensor, dict[str, Stat]]]:
    """Gradients of one optimizer batch, micro-batch by micro-batch: each, its log-probabilities and its figures."""
    actor, temperature = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.temperature
    loss_fn = get_policy_loss_fn(actor.policy_loss.loss_mode)
    settings, mode = loss_settings(config, mini_batch), actor.loss_agg_mode or "token-mean"
    normalisers = {**settings.global_batch_info, "loss_scale_factor": actor.loss_scale_factor}
    teaching = _that_teach(mini_batch, config)
    parts = list(update_parts(teaching, actor))
    unclipped: dict[str, Stat] = {}
    if teaching is not mini_batch and actor.policy_loss.loss_mode in _CLIPS_BY_ADVANTAGE:
        unclipped = _unclipped(mini_batch, teaching)

    def share(loss: Tensor) -> Mean:
        """A part of the optimizer batch's loss: the parts add up to one loss of count one."""
        return Mean(loss.detach(), 1 / len(parts))

    for part in parts:
        mask = loss_mask(part)
        own_old = "old_log_probs" not in part.tensors
        wants_entropy = with_entropy or actor.entropy_coeff != 0
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
        stats = merge_stats([stats, {name: stat for name, stat in unclipped.items() if name in stats}])
        stats["actor/pg_loss"], unclipped = share(loss), {}
        if with_entropy:
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
        yield part, log_prob.detach(), stats
