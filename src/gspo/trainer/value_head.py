"""PPO's value head on the actor's backbone: its updates while the policy rests (`critic.shared_backbone`).

Otherwise it learns in the actor's update, from the same pass: loss = policy's + c1 value's (arXiv 1707.06347, eq. 9).
"""

from __future__ import annotations

from gspo.algorithms.stats import Mean, Stat, merge_stats
from gspo.config import Config
from gspo.groups import GroupBatch
from gspo.trainer.actor import Actor
from gspo.trainer.stages import mini_batches, update_parts
from gspo.trainer.values import value_terms

__all__ = ["update_value_head"]


def update_value_head(batch: GroupBatch, actor: Actor, config: Config, step: int) -> dict[str, Stat]:
    """The head's updates of one step of `trainer.critic_warmup`; the model stays as it is, to the bit.

    Mini-batches and passes over them are the actor's; the learning rate is the actor's peak, outside of its schedule.
    """
    settings = config.actor_rollout_ref.actor
    stats: list[dict[str, Stat]] = [{"actor/lr": Mean(settings.optim.lr)}]
    with actor.constant_rate(settings.optim.lr):
        for mini_batch in mini_batches(batch, config, step):
            if not bool(mini_batch["response_mask"].any()):
                continue
            parts = list(update_parts(mini_batch, settings))
            for part in parts:
                loss, figures = value_terms(actor.policy.values(part), part, mini_batch, len(parts), config.critic)
                (config.critic.value_loss_coef * loss).backward()
                stats.append(figures)
            stats.append(actor.step())
    return merge_stats(stats)
