"""One forward pass through trunk and heads: the only place of this project that calls a decoder.

Whatever must happen around the use of weights (gathering shards, say, by hooks of this module) happens around one
`forward`: it reads the trunk, the output head and the scalar head, and nothing reads them outside of it. Names of
parameters in checkpoints and optimizers are those of the modules that it holds, which callers keep hold of.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gspo.models.attention import AttentionContext
from gspo.models.cpu.linear import packed_weights
from gspo.models.logits import OutputHead, token_log_probs
from gspo.models.packing import PackedRow
from gspo.models.precision import copies_held, products_of
from gspo.models.prefix_attention import PackedAttention
from gspo.models.scalar_head import read_numbers

__all__ = ["Backbone", "Compute", "Inputs", "Read", "Reading", "decoder_of", "evaluation_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """While open, no module is in training mode: none recomputes its activations."""
    trained = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in trained:
            module.training = True


def decoder_of(model: PreTrainedModel) -> PreTrainedModel:
    """The decoder without its output head: what gives the last hidden states."""
    found: Any = model.get_decoder()
    if not isinstance(found, PreTrainedModel):  # some call their output head the decoder
        found = model.base_model
    while found.get_output_embeddings() is not None and isinstance(getattr(found, "model", None), PreTrainedModel):
        found = found.model  # the text model of a wrapper, with a head of its own
    return found


@dataclass(frozen=True)
class Compute:
    """How the passes through a model compute.

    Attributes:
        products: the type of the factors of matrix products, where it is not that of the weights (`precision`).
        flex: packed rows may run on flex_attention, where that serves.
    """

    products: torch.dtype | None = None
    flex: bool = False


@dataclass(frozen=True)
class Inputs:
    """What a pass runs.

    Attributes:
        input_ids: tokens. (batch, tokens)
        position_ids: position of each token in its own sequence; None with `context`. (batch, tokens)
        context: how the tokens see one another; None: each row is one sequence, and the model's own code runs all of
            the pass, with its own attention and head.
    """

    input_ids: Tensor
    position_ids: Tensor | None = None
    context: AttentionContext | None = None


@dataclass(frozen=True)
class Read:
    """What is read from the last hidden states of a pass.

    Attributes:
        where: places in the only row of the batch; None: every row has one token, and it is that. (places,)
        targets: token ids whose log-probabilities are read; None: none are. (places,)
        temperature: the logits are divided by it, for log-probabilities and entropies.
        entropy: compute the entropies too; otherwise they are zero.
        logits: read the logits.
        numbers: read the scalar head's numbers.
        frozen_trunk: let no gradient into the trunk.
    """

    where: Tensor | None = None
    targets: Tensor | None = None
    temperature: float = 1.0
    entropy: bool = False
    logits: bool = False
    numbers: bool = False
    frozen_trunk: bool = False


class Reading(NamedTuple):
    """What was read; a tuple, in which a module's hooks find the tensors. What was not asked for is None.

    Attributes:
        log_probs, entropy: in nats. (places,)
        logits: float32 or wider. (places, vocabulary)
        numbers: in the scalar head's type. (places,)
    """

    log_probs: Tensor | None = None
    entropy: Tensor | None = None
    logits: Tensor | None = None
    numbers: Tensor | None = None


class Backbone(nn.Module):
    """A decoder with its heads.

    Args:
        model: a causal language model, or its decoder on its own where no logits are read.
        number_head: reads one number from a hidden state (`scalar_head`).
        compute: how its passes compute.

    Attributes:
        vocabulary: tokens from this number on have no logits, and so are neither sampled nor part of any probability;
            None: there are none.
    """

    def __init__(
        self, model: PreTrainedModel, number_head: nn.Linear | None = None, compute: Compute | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.number_head = number_head
        self.compute = compute or Compute()
        self.vocabulary: int | None = None
        self._sampling: ExitStack | None = None
        self._sampling_head: OutputHead | None = None

    def forward(self, inputs: Inputs, read: Read) -> Reading:
        """Runs `inputs` and returns what `read` asks for; without a context only the logits of all tokens.

        Those are of shape (batch, tokens, vocabulary).
        """
        if inputs.context is None:
            return Reading(logits=self._own_logits(inputs.input_ids))
        if self._sampling is not None and self._sampling_head is None:
            self._lay_out(self._sampling)
        with torch.no_grad() if read.frozen_trunk else nullcontext():
            hidden = self._hidden(inputs)
            states = hidden[:, 0] if read.where is None else hidden[0, read.where]
        log_probs = entropy = logits = numbers = None
        if read.targets is not None:
            log_probs, entropy = token_log_probs(
                self._output_head(), states, read.targets, read.temperature, read.entropy
            )
        if read.logits:
            logits = self._output_head().logits(states)
        if read.numbers:
            assert self.number_head is not None
            numbers = read_numbers(self.number_head, states)
        return Reading(log_probs, entropy, logits, numbers)

    def inputs(self, row: PackedRow) -> Inputs:
        """The inputs of packed groups."""
        return Inputs(row.input_ids, row.position_ids, PackedAttention(row.spans, row.position_ids, self.compute.flex))

    @contextmanager
    def sampling(self) -> Iterator[None]:
        """While open, the first pass lays the weights out for many passes of few rows. They must not change meanwhile.

        Where products have another type, that is a copy of the weights in it; on a CPU it is one in another order.
        """
        try:
            with evaluation_mode(self.model), ExitStack() as stack:
                if self.compute.products is not None:
                    stack.enter_context(copies_held(self.model.device))
                self._sampling = stack
                yield
        finally:
            self._sampling = self._sampling_head = None

    def _lay_out(self, held: ExitStack) -> None:
        if self.compute.products is None:
            held.enter_context(packed_weights(self.model))
        self._sampling_head = self._output_head().cast()

    def _hidden(self, inputs: Inputs) -> Tensor:
        """Last hidden states. (batch, tokens, hidden size)"""
        with products_of(self.compute.products, inputs.input_ids.device):
            output = decoder_of(self.model)(
                input_ids=inputs.input_ids,
                position_ids=inputs.position_ids,
                attention_mask=None,
                use_cache=False,
                context=inputs.context,
            )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _output_head(self) -> OutputHead:
        """The model's map from last hidden states to logits, with its soft cap and scale."""
        if self._sampling_head is not None:
            return self._sampling_head
        config = self.model.config.get_text_config()
        linear = self.model.get_output_embeddings()
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        softcap = getattr(config, "final_logit_softcapping", None)
        bias, packed = getattr(linear, "bias", None), getattr(linear, "packed", None)
        products, vocabulary = self.compute.products, self.vocabulary
        return OutputHead(linear.weight, bias, softcap, scale / divisor, packed, products, vocabulary)

    def _own_logits(self, input_ids: Tensor) -> Tensor:
        config = self.model.config
        before = config._attn_implementation
        config._attn_implementation = "eager"
        try:
            logits: Tensor = self.model(input_ids=input_ids, use_cache=False).logits[..., : self.vocabulary]
        finally:
            config._attn_implementation = before
        return logits
