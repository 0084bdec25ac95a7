"""What both forms of the value critic share: the loss of a micro-batch, and the variance that values explain."""

from __future__ import annotations

from torch import Tensor

from gspo.algorithms import compute_value_loss, explained_variance, explained_variance_sums
from gspo.algorithms.stats import Mean, Stat
from gspo.config.schema import CriticConfig
from gspo.groups import GroupBatch

__all__ = ["explained", "value_terms"]


def value_terms(
    vpreds: Tensor, part: GroupBatch, whole: GroupBatch, num_parts: int, config: CriticConfig
) -> tuple[Tensor, dict[str, Stat]]:
    """A micro-batch's share of the value loss of an optimizer batch, and its figures.

    Args:
        vpreds: its values, with gradient. (responses, width)
        part: the micro-batch, with `returns` and the `values` from before the step's updates.
        whole: the optimizer batch, whose tokens and responses normalise.
        num_parts: how many micro-batches the optimizer batch has.
        config: the `critic` section.
    """
    mask, written = part["response_mask"], whole["response_mask"]
    loss, clipped = compute_value_loss(
        vpreds=vpreds,
        returns=part["returns"],
        values=part["values"],
        response_mask=mask,
        cliprange_value=config.cliprange_value,
        loss_agg_mode=config.loss_agg_mode,
        batch_num_tokens=written.sum(),
        global_batch_size=(written.sum(-1) > 0).sum(),
    )
    return loss, {
        "critic/vf_loss": Mean(loss.detach(), 1 / num_parts),  # the parts add up to one loss of count one
        "critic/vf_clipfrac": clipped,
        "critic/vpred_mean": Mean.masked(vpreds, mask),
    }


def explained(batch: GroupBatch) -> dict[str, Stat]:
    """`critic/vf_explained_var`: of the values that the advantages were formed with, before the updates."""
    mask = batch["response_mask"]
    if not bool(mask.any()):
        return {}
    return {
        "critic/vf_explained_var": Mean(
            explained_variance(explained_variance_sums(batch["values"], batch["returns"], mask))
        )
    }
