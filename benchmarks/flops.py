"""Useful floating-point operations of a step's phases: what an implementation that computes no token twice must do.

A multiplication and an addition are two. Counted are matrix products only:

    linear     2 x (weights of the decoder's layers) for each token that is run
    attention  4 x layers x heads x head size for each pair of a token and one that it sees (itself among them)
    head       2 x hidden size x vocabulary for each position at which a response token is predicted

A backward pass is twice its forward pass. A prompt is run once for its group, a response without its last token (which
predicts nothing; a discriminator reads its score there and runs it too), and a teacher's text once for its group. The
n first tokens of a group's responses are predicted at one position, the prompt's last. Norms, softmax, sampling and the
optimizer count as nothing.

phase            passes
gen              prompts and responses once, forward
reward           GAD: the discriminator over prompts and whole responses, forward
old_log_prob     prompts and responses once, forward; what a step adds to its useful operations is 0, since the
                 sampled tokens' log-probabilities are known from sampling
update_critic    GAD: the discriminator over prompts, whole responses and the teacher's, forward and backward
update_actor     prompts and responses once, forward and backward
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads import Workload

__all__ = ["GroupShape", "Shape", "phase_flops", "useful_flops"]

# Phases that a step needs not have for its result.
AVOIDABLE = frozenset({"old_log_prob"})


@dataclass(frozen=True)
class GroupShape:
    """Lengths of a group, in tokens; `teacher` is 0 where there is none."""

    prompt: int
    responses: tuple[int, ...]
    teacher: int = 0


@dataclass(frozen=True)
class Shape:
    """What of a decoder decides its operations."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    intermediate_size: int
    vocab_size: int

    @classmethod
    def of(cls, workload: Workload) -> Shape:
        """The shape of a workload's model."""
        return cls(
            workload.hidden_size,
            workload.num_layers,
            workload.num_heads,
            workload.num_kv_heads,
            workload.hidden_size // workload.num_heads,
            workload.intermediate_size,
            workload.vocab_size,
        )

    @property
    def layer_weights(self) -> int:
        """Weights of all layers' matrices: queries, keys, values, output; gate, up and down."""
        attention = self.hidden_size * self.head_size * (2 * self.num_heads + 2 * self.num_kv_heads)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    def forward(self, tokens: int, pairs: int, predicted: int) -> int:
        """Operations of a forward pass.

        Args:
            tokens: tokens run through the layers.
            pairs: pairs of a token and one that it sees.
            predicted: positions at which logits are formed.
        """
        linear = 2 * self.layer_weights * tokens
        attention = 4 * self.num_layers * self.num_heads * self.head_size * pairs
        return linear + attention + 2 * self.hidden_size * self.vocab_size * predicted


def _run(groups: Sequence[GroupShape], *, whole: bool, teacher: bool) -> tuple[int, int]:
    """(tokens, pairs) of prompts once and of responses, without their last token unless `whole`."""
    tokens = pairs = 0
    for group in groups:
        own = [length if whole else max(0, length - 1) for length in group.responses]
        if teacher:
            own.append(group.teacher)
        tokens += group.prompt + sum(own)
        pairs += _triangle(group.prompt) + sum(group.prompt * length + _triangle(length) for length in own)
    return tokens, pairs


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


def phase_flops(workload: Workload, groups: Sequence[GroupShape]) -> dict[str, int]:
    """Operations of each phase, under the trainer's names of the phases."""
    shape = Shape.of(workload)
    predicted = sum(1 + sum(max(0, length - 1) for length in group.responses) for group in groups)
    policy = shape.forward(*_run(groups, whole=False, teacher=False), predicted)
    flops = {"gen": policy, "old_log_prob": policy, "update_actor": 3 * policy}
    if workload.discriminator:
        flops["reward"] = shape.forward(*_run(groups, whole=True, teacher=False), 0)
        flops["update_critic"] = 3 * shape.forward(*_run(groups, whole=True, teacher=True), 0)
    return flops


def useful_flops(workload: Workload, groups: Sequence[GroupShape]) -> int:
    """Operations that the step needs: those of all phases but the avoidable ones."""
    return sum(count for name, count in phase_flops(workload, groups).items() if name not in AVOIDABLE)
