"""The critic: its model; PPO's values before a step's updates, and the updates of a value critic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from transformers import PreTrainedTokenizerBase

from gspo.algorithms.stats import Mean, Stat, merge_stats
from gspo.config import Config
from gspo.config.schema import CriticConfig, OptimConfig
from gspo.groups import GroupBatch
from gspo.models import Scorer, micro_batches
from gspo.trainer.actor import load_policy
from gspo.trainer.stages import mini_batches
from gspo.trainer.trained import Trained
from gspo.trainer.values import explained, value_terms

__all__ = ["Critic", "add_values", "load_critic", "update_critic"]

# transformers' initializer_range of most decoders, for a model that names none.
_HEAD_STD = 0.02


class Critic(Trained):
    """A scorer that is trained.

    Args:
        scorer: the scorer.
        optim: its optimizer's settings.
        total_steps: training steps of the run, for the schedule.
    """

    def __init__(self, scorer: Scorer, optim: OptimConfig, total_steps: int) -> None:
        super().__init__(scorer.model, optim, total_steps, name="critic", model_key="critic.model.path")
        self.scorer = scorer


def load_critic(
    config: Config, tokenizer: PreTrainedTokenizerBase, device: str, longest: int, total_steps: int
) -> Critic:
    """The critic that `critic` describes: a decoder of its own, loaded as the actor's is, with a new head.

    Args:
        config: the resolved configuration.
        tokenizer: the actor's, whose tokens the critic reads.
        device: where it goes.
        longest: tokens of the longest prompt and response together.
        total_steps: training steps of the run.

    Raises:
        ValueError: the model cannot be loaded or packed, or is too small for the tokenizer or the lengths.
    """
    model, own = config.actor_rollout_ref.model, config.critic.model.path
    if own is None:
        policy = load_policy(model, tokenizer, device, longest)
    else:
        policy = load_policy(
            replace(model, path=own), tokenizer, device, longest, needs_head=False, path_key="critic.model.path"
        )
    # A discriminator's head is as large as any new layer of the model's kind.
    usual = getattr(policy.model.config.get_text_config(), "initializer_range", _HEAD_STD)
    std = usual if config.wants_discriminator else 0.0
    return Critic(Scorer(policy.model, head_std=std), config.critic.optim, total_steps)


@torch.no_grad()
def add_values(batch: GroupBatch, critic: Critic, config: Config) -> None:
    """`values`: what the critic expects at each token before it is updated."""
    batch["values"] = torch.cat([critic.scorer.values(part) for part in _parts(batch, config.critic)])


def update_critic(batch: GroupBatch, critic: Critic, config: Config, step: int) -> dict[str, Stat]:
    """The critic's updates of one step, towards `returns`."""
    stats: list[dict[str, Stat]] = [{"critic/lr": Mean(critic.lr)}, explained(batch)]
    for mini_batch in mini_batches(batch, config, step, config.critic):
        if not bool(mini_batch["response_mask"].any()):
            continue
        stats += _accumulate(mini_batch, critic.scorer, config.critic)
        stats.append(critic.step())
    critic.advance()
    return merge_stats(stats)


def _accumulate(mini_batch: GroupBatch, scorer: Scorer, config: CriticConfig) -> Iterator[dict[str, Stat]]:
    """Gradients of one optimizer batch, micro-batch by micro-batch, with the normalisers of the whole."""
    parts = list(_parts(mini_batch, config))
    for part in parts:
        loss, figures = value_terms(scorer.values(part), part, mini_batch, len(parts), config)
        loss.backward()
        yield figures


def _parts(batch: GroupBatch, config: CriticConfig) -> Iterator[GroupBatch]:
    return micro_batches(batch, config.ppo_max_token_len_per_gpu, config.ppo_micro_batch_size_per_gpu)
