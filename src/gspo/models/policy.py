"""The policy: a decoder that gives the log-probability and entropy of every response token of a batch of groups."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gspo.groups import Group, GroupBatch, Prompt, Response
from gspo.models.attention import forward_hidden, use_project_attention
from gspo.models.flex_attention import allows_flex_attention
from gspo.models.logits import OutputHead, token_log_probs
from gspo.models.packing import PackedRow, pack
from gspo.models.precision import product_dtype
from gspo.models.prefix_attention import PackedAttention
from gspo.models.scalar_head import read_numbers

__all__ = ["Policy", "output_head", "verify_packed_forward"]

# Another order of the same sums differs by about 1e-5 (models compute norms in float32 whatever their dtype); a wrong
# mask or head differs by far more.
_PACKING_TOLERANCE = {torch.float64: 1e-4, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 5e-2}


def output_head(model: PreTrainedModel) -> OutputHead:
    """The model's map from last hidden states to logits, with its soft cap and scale."""
    config = model.config.get_text_config()
    linear = model.get_output_embeddings()
    scale = getattr(config, "logit_scale", None) or 1.0
    divisor = getattr(config, "logits_scaling", None) or 1.0
    softcap = getattr(config, "final_logit_softcapping", None)
    bias, packed = getattr(linear, "bias", None), getattr(linear, "packed", None)
    return OutputHead(linear.weight, bias, softcap, scale / divisor, packed, product_dtype(model))


class Policy:
    """A causal language model over packed groups.

    Args:
        model: a decoder that uses transformers' attention interface; its attention becomes the shared-prefix one.
        value_head: reads the model's last hidden states as PPO's values (`scalar_head`); it is no part of `model`.

    Raises:
        ValueError: the model does not use the attention interface.
    """

    def __init__(self, model: PreTrainedModel, value_head: nn.Linear | None = None) -> None:
        use_project_attention(model)
        self.model = model
        self.value_head = value_head

    @property
    def device(self) -> torch.device:
        return self.model.device

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
        row, hidden = self._states(batch)
        log_probs, entropy = token_log_probs(output_head(self.model), hidden, row.targets, temperature, with_entropy)
        shape = batch["response_mask"].shape
        values = None if self.value_head is None else row.scatter(read_numbers(self.value_head, hidden), shape)
        return row.scatter(log_probs, shape), row.scatter(entropy, shape), values

    def values(self, batch: GroupBatch) -> Tensor:
        """The values alone, differentiable in the value head and not in the model. (responses, width)"""
        assert self.value_head is not None
        with torch.no_grad():
            row, hidden = self._states(batch)
        return row.scatter(read_numbers(self.value_head, hidden), batch["response_mask"].shape)

    def _states(self, batch: GroupBatch) -> tuple[PackedRow, Tensor]:
        """The packed groups, and the last hidden state that each response token is predicted from."""
        row = pack(batch.groups, device=self.device)
        context = PackedAttention(row.spans, row.position_ids, allows_flex_attention(self.model))
        return row, forward_hidden(self.model, row.input_ids, row.position_ids, context)[0, row.sources]


@torch.no_grad()
def verify_packed_forward(policy: Policy) -> float:
    """Compares the packed forward with the model's own on a few tokens, and returns the largest difference in nats.

    Guards against a decoder that does more with its attention or its logits than this project knows of.

    Raises:
        ValueError: they differ by more than rounding.
    """
    model = policy.model
    vocabulary = output_head(model).weight.shape[0]
    tokens = [(7 * i + 3) % vocabulary for i in range(9)]
    prompt, responses = tokens[:4], [tokens[4:], tokens[5:7], tokens[6:]]
    group = Group(
        Prompt("check:0", tuple(prompt), "", ""),
        [Response(tokens, [0.0] * len(tokens), "", "stop") for tokens in responses],
    )
    row, hidden = policy._states(GroupBatch.from_groups([group], scored=False))
    ours, _ = token_log_probs(output_head(model), hidden, row.targets)

    packed_implementation = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        plain = []
        for response in responses:
            sequence = torch.tensor([prompt + response], device=policy.device)
            logits = model(input_ids=sequence, use_cache=False).logits[0, len(prompt) - 1 : -1].to(ours.dtype)
            picked = torch.tensor(response, device=policy.device)[:, None]
            plain.append(logits.log_softmax(-1).gather(1, picked)[:, 0])
    finally:
        model.config._attn_implementation = packed_implementation
    difference = float((ours - torch.cat(plain)).abs().max())
    tolerance = _PACKING_TOLERANCE[product_dtype(model) or model.dtype]
    if not difference <= tolerance:
        raise ValueError(
            f"{type(model).__name__}: log-probabilities from packed groups differ from the model's own forward by "
            f"{difference:.2g} nats (rounding would explain {tolerance:.0e}); the model does something in its "
            "attention or its output head that packing does not know, or its weights are not finite"
        )
    return difference
