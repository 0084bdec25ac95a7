"""Given answers as responses: what supervised training learns, and a teacher's texts beside a student's."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, Outcome, Response

__all__ = ["add_teachers", "answer_response"]


def answer_response(text: str, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> Response:
    """A given answer as the policy would have written it: its tokens and the end token, cut at `max_tokens`."""
    token_ids = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    cut = len(token_ids) > max_tokens
    token_ids = token_ids[:max_tokens]
    return Response(token_ids, [0.0] * len(token_ids), text, "length" if cut else "stop", outcome=Outcome(0.0))


def add_teachers(groups: Sequence[Group], tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> None:
    """Sets `teacher` of every group whose prompt has a teacher's text."""
    for group in groups:
        if group.prompt.teacher_response is not None:
            group.teacher = answer_response(group.prompt.teacher_response, tokenizer, max_tokens)
