"""The policy: a decoder that gives the log-probability and entropy of every response token of a batch of groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gspo.groups import GroupBatch
from gspo.models.attention import use_project_attention
from gspo.models.backbone import Backbone, Compute, Read
from gspo.models.packing import pack

__all__ = ["VALUE_HEAD", "Policy"]

# The name of a value head next to the model, in checkpoints as well.
VALUE_HEAD = "value_head"


class Policy:
    """A causal language model over packed groups.

    Args:
        model: a decoder that uses transformers' attention interface; its attention becomes the shared-prefix one.
        value_head: reads the model's last hidden states as PPO's values (`scalar_head`); it is no part of `model`.
        compute: how its passes compute, from `prepare_model`; None: in the model's own type.

    Attributes:
        backbone: through which every pass goes; it holds the model and the value head.
        notices: lines that a run says of it at its start.
        export_dtype: the type of its exported weights; None: their own.
        export_files: further files of its exported folder, by name.

    Raises:
        ValueError: the model does not use the attention interface.
    """

    def __init__(
        self, model: PreTrainedModel, value_head: nn.Linear | None = None, compute: Compute | None = None
    ) -> None:
        use_project_attention(model)
        self.model = model
        self.value_head = value_head
        self.backbone = Backbone(model, value_head, compute)
        self.notices: list[str] = []
        self.export_dtype: torch.dtype | None = None
        self.export_files: dict[str, bytes] = {}

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def is_narrow(self) -> bool:
        """Whether it computes in 16 bits: then a token's figures depend on the tokens in its pass."""
        return self.product_dtype.itemsize < torch.float32.itemsize

    @property
    def has_values(self) -> bool:
        """Whether a value head is on its backbone."""
        return self.value_head is not None

    @property
    def heads(self) -> dict[str, nn.Module]:
        """What is trained with the model and is not part of it, by name."""
        return {VALUE_HEAD: self.value_head} if self.value_head else {}

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens that it can write."""
        return self.backbone.vocabulary or int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def product_dtype(self) -> torch.dtype:
        """The type of the factors of its matrix products."""
        return self.backbone.compute.products or self.model.dtype

    def log_probs(
        self, batch: GroupBatch, temperature: float = 1.0, *, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Log-probability and entropy of every response token, differentiable in the weights.

        Args:
            batch: groups; each prompt passes through the model once.
            temperature: the logits are divided by it, as they were in sampling.
            with_entropy: compute entropies; otherwise they are zero.

        Returns:
            two tensors of shape (responses, width), zero where there is no token.
        """
        log_probs, entropy, _ = self.log_probs_and_values(batch, temperature, with_entropy=with_entropy)
        return log_probs, entropy

    def log_probs_and_values(
        self, batch: GroupBatch, temperature: float = 1.0, *, with_entropy: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`log_probs`, and the value of the state that each token is chosen in, from one pass through the model.

        Returns:
            three tensors of shape (responses, width), zero where there is no token; the third is None without a value
            head.
        """
        row = pack(batch.groups, device=self.device)
        read = Read(row.sources, row.targets, temperature, with_entropy, numbers=self.has_values)
        log_probs, entropy, _, numbers = self.backbone(self.backbone.inputs(row), read)
        shape = batch["response_mask"].shape
        values = None if numbers is None else row.scatter(numbers, shape)
        return row.scatter(log_probs, shape), row.scatter(entropy, shape), values

    def values(self, batch: GroupBatch) -> Tensor:
        """The values alone, differentiable in the value head and not in the model. (responses, width)"""
        row = pack(batch.groups, device=self.device)
        read = Read(row.sources, numbers=True, frozen_trunk=True)
        numbers = self.backbone(self.backbone.inputs(row), read).numbers
        return row.scatter(numbers, batch["response_mask"].shape)
