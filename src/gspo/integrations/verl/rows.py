"""Rows of tokens as verl's workers take them: jagged, filled up and spread over the data-parallel ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.tensorclass import NonTensorData
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions

__all__ = ["Cut", "Row", "Rows"]


@dataclass(frozen=True)
class Row:
    """One sequence: a prompt's tokens and a response's, and what its score counts in the loss. (tokens,) both"""

    prompt: Tensor
    response: Tensor
    weight: float = 0.0

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)


@dataclass(frozen=True)
class Cut:
    """How a worker group cuts a batch.

    Attributes:
        dp_size: data-parallel ranks.
        use_dynamic_bsz: micro-batches of at most `max_token_len_per_gpu` tokens instead of a number of rows.
        max_token_len_per_gpu: tokens.
        micro_batch_size_per_gpu: rows.
    """

    dp_size: int
    use_dynamic_bsz: bool
    max_token_len_per_gpu: int
    micro_batch_size_per_gpu: int | None

    @property
    def multiple(self) -> int:
        """What the number of rows must be a multiple of."""
        return self.dp_size * (1 if self.use_dynamic_bsz else self.micro_batch_size_per_gpu or 1)

    def keys(self) -> dict[str, Any]:
        """What tells the worker so."""
        return {
            "use_dynamic_bsz": self.use_dynamic_bsz,
            "max_token_len_per_gpu": self.max_token_len_per_gpu,
            "micro_batch_size_per_gpu": self.micro_batch_size_per_gpu,
        }


class Rows:
    """Rows in the order in which they are sent, each rank's part after the other's.

    Copies of the shortest row that count nowhere fill the number up to a multiple.

    Args:
        rows: what is to be sent; at least one.
        dp_size: data-parallel ranks.
        multiple: of what the number of rows sent must be a multiple; itself one of `dp_size`.
    """

    def __init__(self, rows: Sequence[Row], dp_size: int, multiple: int) -> None:
        lengths = [len(row) for row in rows]
        filler = lengths.index(min(lengths))
        places = [*range(len(rows)), *[filler] * (-len(rows) % multiple)]
        order = list(range(len(places)))
        if dp_size > 1:
            work = calculate_workload(torch.tensor([lengths[place] for place in places], dtype=torch.int64))
            parts = get_seqlen_balanced_partitions(work, k_partitions=dp_size, equal_size=True)
            order = [place for part in parts for place in part]
        self._rows = [rows[places[place]] for place in order]
        self._counts = [place < len(rows) for place in order]
        self._position = {place: position for position, place in enumerate(order) if place < len(rows)}

    def batch(self, **keys: Any) -> TensorDict:
        """input_ids, position_ids and loss_mask (1 on responses), all (rows, tokens) jagged, and score_weight (rows,).

        Args:
            **keys: what is not a tensor and goes with them.
        """
        masks = [_loss_mask(row, counts) for row, counts in zip(self._rows, self._counts, strict=True)]
        weights = [row.weight if counts else 0.0 for row, counts in zip(self._rows, self._counts, strict=True)]
        data = TensorDict(
            {
                "input_ids": _jagged([torch.cat([row.prompt, row.response]) for row in self._rows]),
                "position_ids": _jagged([torch.arange(len(row)) for row in self._rows]),
                "loss_mask": _jagged(masks),
                "score_weight": torch.tensor(weights, dtype=torch.float32),
            },
            batch_size=len(self._rows),
        )
        tu.assign_non_tensor(data, **keys, global_token_num=NonTensorData([len(row) for row in self._rows]))
        return data

    def restore(self, output: Tensor) -> list[Tensor]:
        """What a worker returned for each row, in the order of `rows`, the copies left out. (rows, tokens) jagged"""
        parts = output.unbind()
        return [parts[self._position[place]] for place in range(len(self._position))]


def _jagged(parts: Sequence[Tensor]) -> Tensor:
    return torch.nested.as_nested_tensor(list(parts), layout=torch.jagged)


def _loss_mask(row: Row, counts: bool) -> Tensor:
    return torch.cat([torch.zeros_like(row.prompt), torch.full_like(row.response, int(counts))])
