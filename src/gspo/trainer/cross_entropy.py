"""Cross-entropy on given responses, micro-batch by micro-batch: supervised fine-tuning, and the first stage of GAD."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from gspo.algorithms import agg_loss
from gspo.algorithms.stats import Mean
from gspo.config import Config
from gspo.groups import GroupBatch
from gspo.models import Policy, micro_batches

__all__ = ["cross_entropy"]


def cross_entropy(batch: GroupBatch, policy: Policy, config: Config) -> Iterator[tuple[GroupBatch, Tensor, Mean]]:
    """Each micro-batch of the responses, its share of the loss, and its own mean loss in nats a token.

    The shares add up to the mean negative log-likelihood over the tokens of the whole batch. Micro-batches are the
    actor's.
    """
    actor, num_tokens = config.actor_rollout_ref.actor, batch.num_tokens
    max_responses = None if actor.use_dynamic_bsz else actor.ppo_micro_batch_size_per_gpu
    for part in micro_batches(batch, actor.ppo_max_token_len_per_gpu, max_responses):
        log_prob, _ = policy.log_probs(part)
        share = agg_loss(-log_prob, part["response_mask"], "token-mean", batch_num_tokens=num_tokens)
        yield part, share, Mean(share.detach() * num_tokens, part.num_tokens)
