"""The policy's updates of a step: the loss as a sum of terms, pass by pass, optimizer batch by optimizer batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gspo.algorithms import agg_loss, get_policy_loss_fn, kl_penalty
from gspo.algorithms.settings import PolicyLossSettings
from gspo.algorithms.stats import Mean, merge_stats
from gspo.config.schema import ActorConfig
from gspo.groups import GroupBatch
from gspo.methods import PolicyLoss, loss_named
from gspo.observe import PhaseClock
from gspo.trainer.batching import Counts, Cut, counted, mini_batches_of, passes
from gspo.trainer.critics import Stats
from gspo.trainer.drift import SampleCheck, rollout_drift
from gspo.trainer.old_log_probs import old_name
from gspo.trainer.ratio_noise import RatioNoise
from gspo.trainer.trained import Actor
from gspo.trainer.value_critic import SharedValueHead
from gspo.world import World

__all__ = ["PolicyUpdate", "loss_mask", "loss_settings"]


def loss_mask(batch: GroupBatch) -> Tensor:
    """Which tokens the policy's losses and their normalisers count: those it wrote, less those rejected."""
    return batch.tensors.get("kept_mask", batch["response_mask"])


def loss_settings(section: ActorConfig, counts: Counts) -> PolicyLossSettings:
    """The numbers of the policy loss, with the normalisers of a whole optimizer batch."""
    return PolicyLossSettings(
        clip_ratio=section.clip_ratio,
        clip_ratio_low=section.clip_ratio_low,
        clip_ratio_high=section.clip_ratio_high,
        clip_ratio_c=section.clip_ratio_c,
        loss_scale_factor=section.loss_scale_factor,
        tau_pos=section.policy_loss.tau_pos,
        tau_neg=section.policy_loss.tau_neg,
        global_batch_info=counts.normalisers(),
    )


@dataclass(frozen=True)
class _Pass:
    """One pass through the policy, and the optimizer batch that it is a part of.

    Attributes:
        part: its responses.
        old: the name of its old log-probabilities, where it has some.
        log_prob, entropy: of its tokens, with gradient. (responses, width)
        values: of a value head on the policy's backbone, where there is one. (responses, width)
        counts: of the optimizer batch: the tokens that the loss counts.
        written: of the optimizer batch: all tokens that the policy wrote.
        num_parts: passes of the optimizer batch.
    """

    part: GroupBatch
    old: str
    log_prob: Tensor
    entropy: Tensor
    values: Tensor | None
    counts: Counts
    written: Counts
    num_parts: int

    @property
    def mask(self) -> Tensor:
        return loss_mask(self.part)

    def share(self, loss: Tensor) -> Mean:
        """A part of the optimizer batch's loss: the parts add up to one loss of count one."""
        return Mean(loss.detach(), 1 / self.num_parts)


# A term of the loss: what it adds, and its figures.
_Term = Callable[[_Pass], tuple[Tensor, Stats]]


class PolicyUpdate:
    """The policy's updates of one step.

    A batch without `old_log_probs` is trained in a single optimizer step: the policy is then its own old policy.

    Args:
        actor: whose policy is updated.
        section: the `actor` section.
        temperature: at which log-probabilities are taken.
        cut: how its updates cut a batch.
        clock: times it as `update_actor`.
        world: the ranks.
        value_head: a value head on the policy's backbone, which learns in the same pass.
        noise: measures what rounding does to the ratio, in the first step.
        exact_samples: the sampler computes as the policy does, in float32 or wider: where its log-probabilities are not
            the policy's, the run stops.
    """

    def __init__(
        self,
        actor: Actor,
        section: ActorConfig,
        temperature: float,
        cut: Cut,
        clock: PhaseClock,
        world: World,
        value_head: SharedValueHead | None = None,
        noise: RatioNoise | None = None,
        exact_samples: bool = False,
    ) -> None:
        self._noise = noise
        self._actor, self._section, self._temperature = actor, section, temperature
        self._cut, self._clock, self._world = cut, clock, world
        self._loss = get_policy_loss_fn(section.policy_loss.loss_mode)
        self._facts = loss_named(section.policy_loss.loss_mode) or PolicyLoss(section.policy_loss.loss_mode)
        self._mode = section.loss_agg_mode or "token-mean"
        self._terms = [self._policy_term, *self._further_terms(value_head)]
        self._check = SampleCheck(exact_samples, world)
        self._skips = section.skip_zero_advantages and len(self._terms) == 1 and self._facts.zero_advantage_is_zero

    def update(self, batch: GroupBatch, step: int, with_entropy: bool = True) -> Stats:
        """The updates of one step.

        Args:
            batch: this rank's groups, with advantages.
            step: number of the step.
            with_entropy: report the entropy, of the passes before the policy moves: of the first optimizer batch.

        Raises:
            ValueError: the samples are of another model than the policy.
        """
        with self._clock("update_actor"):
            stats: list[Stats] = [{"actor/lr": Mean(self._actor.lr)}]
            if self._noise is not None:
                stats.append(self._noise.at(batch, step))
            unmoved = True
            for old, mini_batch in self._mini_batches(batch, step):
                counts = counted(loss_mask(mini_batch), self._world)
                if not bool(counts.num_tokens):
                    continue
                for part, log_prob, figures in self._accumulate(mini_batch, counts, with_entropy and unmoved, old):
                    stats.append(figures)
                    if unmoved:
                        stats.append(rollout_drift(part, log_prob))
                        self._check.add(part, log_prob)
                if unmoved:
                    self._check.require_same(step)
                stats.append(self._actor.step())
                unmoved = False
            self._actor.advance()
        return merge_stats(stats)

    def _mini_batches(self, batch: GroupBatch, step: int) -> Iterator[tuple[str, GroupBatch]]:
        """Each optimizer batch of the step, with the name of its old log-probabilities."""
        for epoch in range(self._cut.epochs):
            name = old_name(epoch, self._cut)
            old = name if name in batch.tensors else "old_log_probs"
            for mini_batch in mini_batches_of(epoch, batch, self._cut, self._world, step):
                yield old, mini_batch

    def _parts(self, mini_batch: GroupBatch) -> list[GroupBatch]:
        """The passes over an optimizer batch, without responses that teach nothing where that leaves a pass out.

        In 16 bits the passes are cut before any is left out, as those of the old log-probabilities are.
        """
        if not self._skips:
            return passes(mini_batch, self._cut, self._world)
        if self._actor.policy.is_narrow:
            return passes(mini_batch, self._cut, self._world, lambda part: bool(_moves(part).any()))
        return passes(_that_teach(mini_batch, self._world), self._cut, self._world)

    def _accumulate(
        self, mini_batch: GroupBatch, counts: Counts, with_entropy: bool, old: str
    ) -> Iterator[tuple[GroupBatch, Tensor, Stats]]:
        """Gradients of one optimizer batch, pass by pass: each, its log-probabilities and its figures."""
        parts = self._parts(mini_batch)
        written = counted(mini_batch["response_mask"], self._world)
        unclipped = _unclipped(mini_batch, parts) if self._skips and self._facts.zero_advantage_never_clips else {}
        for part in parts:
            log_prob, entropy, values = self._actor.policy.log_probs_and_values(
                part, self._temperature, with_entropy=with_entropy or self._section.entropy_coeff != 0
            )
            own = _Pass(part, old, log_prob, entropy, values, counts, written, len(parts))
            loss, stats = self._terms[0](own)
            stats = merge_stats([stats, {name: stat for name, stat in unclipped.items() if name in stats}])
            stats["actor/pg_loss"], unclipped = own.share(loss), {}
            if with_entropy:
                stats["actor/entropy"] = Mean.masked(entropy, part["response_mask"])
            for term in self._terms[1:]:
                further, figures = term(own)
                loss, stats = loss + further, stats | figures
            self._actor.backward(loss)
            yield part, log_prob.detach(), stats

    def _policy_term(self, own: _Pass) -> tuple[Tensor, Stats]:
        part = own.part
        old = part[own.old] if own.old in part.tensors else own.log_prob.detach()
        loss, stats = self._loss(
            old_log_prob=old,
            log_prob=own.log_prob,
            advantages=part["advantages"],
            response_mask=own.mask,
            loss_agg_mode=self._mode,
            config=loss_settings(self._section, own.counts),
            rollout_is_weights=part.tensors.get("rollout_is_weights"),
        )
        return loss, stats

    def _further_terms(self, value_head: SharedValueHead | None) -> Sequence[_Term]:
        section = self._section

        def entropy_term(own: _Pass) -> tuple[Tensor, Stats]:
            return -(section.entropy_coeff * self._aggregated(own.entropy, own)), {}

        def divergence_term(own: _Pass) -> tuple[Tensor, Stats]:
            divergence = kl_penalty(own.log_prob, own.part["ref_log_prob"], section.kl_loss_type)
            loss = self._aggregated(divergence, own)
            figures: Stats = {"actor/kl_loss": own.share(loss), "actor/kl_coef": Mean(section.kl_loss_coef)}
            return section.kl_loss_coef * loss, figures

        terms: list[_Term] = []
        if section.entropy_coeff != 0:
            terms.append(entropy_term)
        if section.use_kl_loss:
            terms.append(divergence_term)
        if value_head:
            terms.append(_value_term(value_head))
        return terms

    def _aggregated(self, values: Tensor, own: _Pass) -> Tensor:
        """Any per-token quantity, made one number as the policy loss is."""
        scale = self._section.loss_scale_factor
        return agg_loss(values, own.mask, self._mode, **own.counts.normalisers(), loss_scale_factor=scale)


def _value_term(head: SharedValueHead) -> _Term:
    def term(own: _Pass) -> tuple[Tensor, Stats]:
        assert own.values is not None
        loss, figures = head.loss.share(own.values, own.part, own.written, own.num_parts)
        return head.weight * loss, figures

    return term


def _moves(batch: GroupBatch) -> Tensor:
    """Which responses the policy learns from. (responses,)"""
    return (batch["advantages"] * loss_mask(batch) != 0).any(-1)


def _that_teach(mini_batch: GroupBatch, world: World) -> GroupBatch:
    """The groups to run, the batch itself if that is all: not those of zero advantages, which nothing else reads.

    Their gradient is zero, and the normalisers of the loss are those of the whole batch.
    """
    teaching = np.unique(mini_batch.group_index[_moves(mini_batch).cpu().numpy()]).tolist()
    if not world.any(bool(teaching)):
        # An optimizer step without a gradient is one still (moments fade, weights decay), and one group gives figures.
        teaching = list(range(len(mini_batch.groups)))[:1]
    return mini_batch if len(teaching) == len(mini_batch.groups) else mini_batch.select(teaching)


def _unclipped(mini_batch: GroupBatch, parts: Sequence[GroupBatch]) -> Stats:
    """What the responses that are not run add to clip fractions: tokens and responses of which none is clipped."""
    whole = loss_mask(mini_batch)
    run = torch.cat([whole[:0], *(loss_mask(part) for part in parts if not part.weightless)])
    if len(whole) == len(run):
        return {}
    tokens, responses = (
        Mean(0.0, sums(whole) - sums(run)) for sums in (lambda mask: mask.sum(), lambda mask: (mask.sum(-1) > 0).sum())
    )
    of_tokens = ("actor/pg_clipfrac", "actor/pg_clipfrac_lower", "actor/token_clipfrac")
    return {**dict.fromkeys(of_tokens, tokens), "actor/seq_clipfrac": responses}
