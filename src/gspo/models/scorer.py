"""A decoder with one number for a head: the value critic of PPO, and GAD's discriminator, which scores responses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gspo.groups import GroupBatch
from gspo.models.attention import use_project_attention
from gspo.models.backbone import Backbone, Compute, Read, decoder_of
from gspo.models.packing import PackedRow, pack
from gspo.models.scalar_head import scalar_head

__all__ = ["Scorer"]


class Scorer:
    """A decoder with a scalar head over packed groups.

    The head is `scalar_head`'s. It starts at zero: every first value is 0, so that PPO's first advantages are those of
    plain returns, where a random head would add noise as large as the rewards. It moves the decoder from the second
    optimizer step on. A discriminator's head starts at random instead: scores that are all equal would rank nothing.

    Args:
        model: a causal language model that uses transformers' attention interface. Its decoder is taken over; its
            output head is not held, and its memory is free once the caller lets go of `model`.
        head_std: standard deviation of the head's first weights, drawn from torch's generator; 0: they are zero.
        compute: how its passes compute, from `prepare_model`; None: in the model's own type.

    Attributes:
        backbone: through which every pass goes; it holds the decoder and the head.
        model: the modules `decoder` and `head`, for an optimizer and for a checkpoint.

    Raises:
        ValueError: the model does not use the attention interface.
    """

    def __init__(self, model: PreTrainedModel, head_std: float = 0.0, compute: Compute | None = None) -> None:
        use_project_attention(model)
        decoder = decoder_of(model)
        self._head = scalar_head(model, head_std)
        self.model = nn.ModuleDict({"decoder": decoder, "head": self._head})
        self.backbone = Backbone(decoder, self._head, compute)

    @property
    def device(self) -> torch.device:
        return self._head.weight.device

    def values(self, batch: GroupBatch) -> Tensor:
        """The value of the state that each response token is chosen in, differentiable in the weights.

        It is read where the token is predicted, at the token before it: the value before the first response token is
        that of the prompt. The last token's own state is final and has no value.

        Returns:
            (responses, width), zero where there is no token.
        """
        row = pack(batch.groups, device=self.device)
        return row.scatter(self._read(row, row.sources), batch["response_mask"].shape)

    def scores(self, batch: GroupBatch) -> Tensor:
        """One number for each whole response, read at its last token (at the prompt's last, where it is empty).

        Differentiable in the weights.

        Returns:
            (responses,)
        """
        row = pack(batch.groups, keep_last=True, device=self.device)
        assert row.ends is not None
        return self._read(row, row.ends)

    def compare(self, batch: GroupBatch) -> tuple[Tensor, Tensor]:
        """`scores` of the responses and of each group's teacher, which passes through the model once, behind them.

        Differentiable in the weights.

        Returns:
            (responses,) and (groups,); `batch.group_index` says which teacher is whose.

        Raises:
            ValueError: a group has no teacher.
        """
        row = pack(batch.groups, keep_last=True, with_teacher=True, device=self.device)
        assert row.ends is not None
        assert row.teacher_ends is not None
        values = self._read(row, torch.cat([row.ends, row.teacher_ends]))
        return values[: len(row.ends)], values[len(row.ends) :]

    def _read(self, row: PackedRow, where: Tensor) -> Tensor:
        """The head's number at these places of the row. (places,)"""
        numbers: Tensor = self.backbone(self.backbone.inputs(row), Read(where, numbers=True)).numbers
        return numbers
