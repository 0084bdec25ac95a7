"""Learning from given answers: answers as responses, their cross-entropy, and GAD's imitation of the teacher."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.algorithms import agg_loss
from gspo.algorithms.stats import Mean, Stat, merge_stats
from gspo.groups import Group, GroupBatch, Outcome, Response
from gspo.models import Ends, Policy, teacher_of
from gspo.observe import PhaseClock
from gspo.trainer.batching import Cut, counted, mini_batches, passes
from gspo.trainer.trained import Actor
from gspo.world import World

__all__ = ["Imitation", "add_teachers", "answer_response", "cross_entropy"]


def answer_response(
    text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int, ends: Ends | None = None
) -> Response:
    """A given answer as the policy would have written it: its tokens and one end token, cut at `max_tokens`.

    Args:
        text: the answer; end tokens that are written out behind it count as that one.
        tokenizer: the policy's.
        max_tokens: the answer is cut there, its end token included.
        ends: of the policy's responses; None: those of the tokenizer and its chat template.
    """
    ends = ends or Ends.of(tokenizer)
    text = ends.without(text)
    token_ids = ends.tokens(text, tokenizer)
    cut = len(token_ids) > max_tokens
    token_ids = token_ids[:max_tokens]
    return Response(token_ids, [0.0] * len(token_ids), text, "length" if cut else "stop", outcome=Outcome(0.0))


def add_teachers(
    groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, max_tokens: int, ends: Ends | None = None
) -> None:
    """Sets `teacher` of every group whose prompt has a teacher's text, as `answer_response` makes it."""
    ends = ends or Ends.of(tokenizer)
    for group in groups:
        if group.prompt.teacher_response is not None:
            group.teacher = answer_response(group.prompt.teacher_response, tokenizer, max_tokens, ends)


def cross_entropy(
    batch: GroupBatch, policy: Policy, cut: Cut, world: World
) -> Iterator[tuple[GroupBatch, Tensor, Mean]]:
    """Each pass over the responses: its groups, its share of the loss, and its own mean loss in nats a token.

    The shares of all ranks, averaged over the ranks, add up to the mean negative log-likelihood over the tokens of the
    whole batch.

    Args:
        batch: this rank's part of the optimizer batch.
        policy: whose log-probabilities they are.
        cut: how the batch is cut into passes.
        world: the ranks.
    """
    counts = counted(batch["response_mask"], world)
    for part in passes(batch, cut, world):
        log_prob, _ = policy.log_probs(part)
        share = agg_loss(
            -log_prob,
            part["response_mask"],
            "token-mean",
            dp_size=counts.num_ranks,
            batch_num_tokens=counts.num_tokens,
        )
        yield part, share, Mean(share.detach() * counts.num_tokens / counts.num_ranks, part.num_tokens)


class Imitation:
    """GAD's first stage: the student learns the teacher's responses by cross-entropy, per token.

    Mini-batches and passes over them are the actor's; the learning rate is constant and outside of its schedule
    (arXiv 2511.10643, section 2.2).

    Args:
        actor: the student.
        cut: how the actor's updates cut a batch.
        lr: the learning rate.
        clock: times it as `update_actor`.
        world: the ranks.
    """

    def __init__(self, actor: Actor, cut: Cut, lr: float, clock: PhaseClock, world: World) -> None:
        self._actor, self._cut, self._lr = actor, cut, lr
        self._clock, self._world = clock, world

    def update(self, batch: GroupBatch, step: int, with_entropy: bool) -> dict[str, Stat]:
        """The student's updates of one step, on the teacher's response of every group."""
        del with_entropy  # it is not measured on a teacher's text
        policy = self._actor.policy
        with self._clock("update_actor"):
            taught = [replace(group, responses=[replace(teacher_of(group))], teacher=None) for group in batch.groups]
            answers = GroupBatch.from_groups(taught, policy.device, scored=False)
            stats: list[dict[str, Stat]] = [{"actor/lr": Mean(self._lr)}]
            with self._actor.constant_rate(self._lr):
                for mini_batch in mini_batches(answers, self._cut, self._world, step):
                    for _, share, mean in cross_entropy(mini_batch, policy, self._cut, self._world):
                        self._actor.backward(share)
                        stats.append({"train/loss": mean})
                    stats.append(self._actor.step())
        return merge_stats(stats)
