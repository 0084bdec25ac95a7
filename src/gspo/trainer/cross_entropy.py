"""Cross-entropy on given responses, micro-batch by micro-batch: supervised fine-tuning, and the first stage of GAD."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gspo.algorithms import agg_loss
from gspo.algorithms.stats import Mean
from gspo.config import Config
from gspo.groups import GroupBatch
from gspo.models import Policy
from gspo.trainer.stages import update_parts

__all__ = ["cross_entropy"]


def cross_entropy(batch: GroupBatch, policy: Policy, config: Config) -> Iterator[tuple[GroupBatch, Tensor, Mean]]:
    """Each micro-batch of the responses, its share of the loss, and its own mean loss in nats a token.

    The shares add up to the mean negative log-likelihood over the tokens of the whole batch. Micro-batches are the
    actor's.
    """
    num_tokens = batch.num_tokens
    for part in update_parts(batch, config.actor_rollout_ref.actor):
        log_prob, _ = policy.log_probs(part)
        share = agg_loss(-log_prob, part["response_mask"], "token-mean", batch_num_tokens=num_tokens)
        yield part, share, Mean(share.detach() * num_tokens, part.num_tokens)
