"""Statistics of groups of rows: the responses to one prompt are the rows that share an index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["GroupStats", "group_numbers", "group_stats"]


def group_numbers(index: np.ndarray | Tensor | Sequence[Any], device: torch.device | str = "cpu") -> Tensor:
    """Numbers the groups 0, 1, ... and says for each row which one it is in.

    Args:
        index: one label a row: integers, strings, or any hashable objects.
        device: where the result lives.

    Returns:
        int64 tensor, (rows,).

    Raises:
        ValueError: `index` is not one label a row.
    """
    if isinstance(index, Tensor):
        labels = index.detach().cpu().numpy()
    else:
        labels = index if isinstance(index, np.ndarray) else np.asarray(index)
    if labels.ndim != 1:
        raise ValueError(f"index must hold one label a row, got an array of shape {labels.shape}")
    if labels.dtype == object:
        # Objects of several types have an equality but no order, which np.unique needs.
        known: dict[Any, int] = {}
        numbers = np.fromiter((known.setdefault(label, len(known)) for label in labels), dtype=np.int64)
    else:
        numbers = np.unique(labels, return_inverse=True)[1]
    return torch.from_numpy(numbers.astype(np.int64)).to(device)


@dataclass(frozen=True)
class GroupStats:
    """For each row, figures of its group.

    Attributes:
        numbers: the group's number, int64. (rows,)
        num_groups: how many groups there are.
        count: rows in the group. (rows,)
        mean: mean score of the group. (rows,)
        deviation: the row's score minus the mean, exactly 0 where all scores of the group are equal. (rows,)
        std: unbiased standard deviation, 0 in a group of one. (rows,)
    """

    numbers: Tensor
    num_groups: int
    count: Tensor
    mean: Tensor
    deviation: Tensor
    std: Tensor


def group_stats(scores: Tensor, index: np.ndarray | Tensor | Sequence[Any]) -> GroupStats:
    """Means and deviations of `scores` (rows,) within the groups of `index` (rows,).

    Raises:
        ValueError: the two differ in length.
    """
    numbers = group_numbers(index, scores.device)
    if len(numbers) != len(scores):
        raise ValueError(f"index has {len(numbers)} labels for {len(scores)} rows")
    num_groups = int(numbers.max()) + 1 if len(numbers) else 0
    zeros = scores.new_zeros(num_groups)
    count = zeros.index_add(0, numbers, torch.ones_like(scores))
    # Measured from the group's least score, so that equal scores deviate by an exact zero: a rounding error of the
    # mean, divided by a standard deviation of the same size, would look like an advantage.
    least = zeros.scatter_reduce(0, numbers, scores, reduce="amin", include_self=False)
    raised = scores - least[numbers]
    raised_mean = zeros.index_add(0, numbers, raised) / count
    deviation = raised - raised_mean[numbers]
    std = (zeros.index_add(0, numbers, deviation.square()) / (count - 1).clamp(min=1)).sqrt()
    return GroupStats(numbers, num_groups, count[numbers], (least + raised_mean)[numbers], deviation, std[numbers])
