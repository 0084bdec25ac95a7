"""The check of a model when the local engine is made: cached decoding against packed groups, at the run's lengths."""

from __future__ import annotations

import torch
from torch import Tensor

from gspo.config.texts import first_line
from gspo.groups import Group, GroupBatch
from gspo.models import Inputs, Policy, Read, pack
from gspo.models.checking import FURTHEST, TOLERANCE, checked_length, made_group
from gspo.rollout.local.cache import DecodeCache
from gspo.rollout.local.prefill import Prefill

__all__ = ["verify_sampling"]

_SHORT, _STEPS = 4, 8


@torch.no_grad()
def verify_sampling(policy: Policy, longest: int = 0) -> float:
    """Compares log-probabilities of cached decoding with those of packed groups, and returns the largest difference.

    A short and a long prompt, each with a response of a few tokens, that of the long one at the run's longest length.

    Args:
        policy: whose weights sample.
        longest: tokens of the longest prompt and response together.

    Raises:
        ValueError: they differ by more than rounding, or the model cannot decode so.
    """
    name = type(policy.model).__name__
    long = max(_SHORT, checked_length(policy, longest) - _STEPS)
    groups = [made_group(policy, 3, _SHORT, _STEPS), made_group(policy, 4, long, _STEPS)]
    try:
        with policy.backbone.sampling():
            decoded = _decoded(policy, groups)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a model's own code raises where it is not called as it expects
        raise ValueError(
            f"{name} cannot be sampled by the local engine: {first_line(error)}; train a model of another family, or "
            "set actor_rollout_ref.rollout.name to an engine of yours"
        ) from error
    packed, _ = policy.log_probs(GroupBatch.from_groups(groups, policy.device, scored=False))
    difference, tolerance = (decoded - packed).abs(), TOLERANCE[policy.product_dtype]
    if not (float(difference.mean()) <= tolerance and float(difference.max()) <= FURTHEST * tolerance):
        raise ValueError(
            f"{name}: log-probabilities from cached decoding differ from those of packed groups by "
            f"{float(difference.max()):.2g} nats (rounding would explain {tolerance:.0e}), so that the policy would be "
            "sampled from another model than is trained: train a model of another family, or set "
            "actor_rollout_ref.rollout.name to an engine of yours"
        )
    return float(difference.max())


def _decoded(policy: Policy, groups: list[Group]) -> Tensor:
    """Log-probabilities of each group's only response, one token after another. (groups, tokens)"""
    backbone, device = policy.backbone, policy.device
    row = pack([Group(group.prompt, []) for group in groups], device=device)
    prefill, cache = Prefill(row, backbone.compute.flex), DecodeCache()
    last = torch.tensor([span.responses_start - 1 for span in row.spans], device=device)
    logits = backbone(Inputs(row.input_ids, row.position_ids, prefill), Read(last, logits=True)).logits
    cache.exchange(torch.arange(0, device=device), prefill, 1)
    columns = torch.tensor([group.responses[0].token_ids for group in groups], device=device).unbind(1)
    log_probs = []
    for number, tokens in enumerate(columns):
        if number:
            inputs = Inputs(columns[number - 1][:, None], cache.position_ids, cache)
            logits = backbone(inputs, Read(logits=True)).logits
            cache.advance()
        log_probs.append(logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0])
    return torch.stack(log_probs, 1)
