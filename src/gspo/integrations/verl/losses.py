"""The loss functions that the plugin gives to verl's workers, by `set_loss_fn`.

They are sent by name, so that they must be importable in every worker: this package is installed on every node.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["discriminator_loss", "last_token_scores"]


def last_token_scores(values: Any) -> Tensor:
    """The value AT each sequence's last token. (rows, tokens) jagged -> (rows,)

    verl's own use of values shifts them by one token, because a value there predicts what follows; a discriminator has
    read the whole response only at its last token.
    """
    scores: Tensor = values.values()[values.offsets()[1:] - 1]
    return scores


def discriminator_loss(
    model_output: dict[str, Tensor], data: Any, dp_group: Any = None
) -> tuple[Tensor, dict[str, float]]:
    """sum_x weight(x) D(x) over the rows of a micro-batch; the weights are of `gspo.integrations.verl.pairs`.

    The weights hold the division by the number of pairs of the optimizer step, so that any split into micro-batches
    adds up to the same gradient. verl averages gradients over data-parallel ranks, which `dp_size` undoes.

    Args:
        model_output: `values`, one for each token, (rows, tokens) jagged.
        data: the micro-batch: `score_weight`, one for each row, and `dp_size`.
        dp_group: not used.
    """
    del dp_group
    scores = last_token_scores(model_output["values"]).float()
    weights = data["score_weight"].to(scores)
    # A row of weight 0 fills up a batch: NaN of it must not reach the sum.
    loss: Tensor = torch.where(weights != 0, weights * scores, 0.0).sum() * data["dp_size"]
    return loss, {}
