"""A head that reads one number from a decoder's hidden state: a value of PPO, a score of GAD's discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init
from transformers import PreTrainedModel

__all__ = ["read_numbers", "scalar_head"]


def scalar_head(model: PreTrainedModel, std: float = 0.0) -> nn.Linear:
    """A linear map to one number with a bias (verl's token-classification head with one label).

    It is in float32 or wider whatever the model's type, and on its device.

    Args:
        model: whose hidden states it reads.
        std: standard deviation of its first weights, drawn from torch's generator; 0: they are zero.
    """
    hidden_size = model.config.get_text_config().hidden_size
    dtype = torch.promote_types(model.dtype, torch.float32)
    head: nn.Linear = skip_init(nn.Linear, hidden_size, 1, device=model.device, dtype=dtype)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    if std > 0:
        nn.init.normal_(head.weight, std=std)
    return head


def read_numbers(head: nn.Linear, hidden: Tensor) -> Tensor:
    """The head's number for each state, in the head's type. (tokens, hidden size) -> (tokens,)"""
    numbers: Tensor = head(hidden.to(head.weight.dtype))[:, 0]
    return numbers
