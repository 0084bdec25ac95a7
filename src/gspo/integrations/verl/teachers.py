"""The teacher's responses as rows of tokens, each with the prompt that the student saw."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gspo.models import Ends

__all__ = ["TeacherTokens"]


class TeacherTokens:
    """Turns a teacher's text into the tokens that the student would have written for it.

    The text ends with the token with which the chat template ends the assistant's message, and is cut where the
    student's responses are: else the end alone would tell the two apart.

    Args:
        tokenizer: the student's.
        max_response_length: tokens.
        key: the column of the text, for errors.
    """

    def __init__(self, tokenizer: Any, max_response_length: int, key: str = "teacher_response") -> None:
        self._tokenizer, self._limit, self._key = tokenizer, max_response_length, key
        self._ends = Ends.of(tokenizer)

    def __call__(self, text: Any, uid: str) -> Tensor:
        """The tokens of a text. (tokens,)

        Raises:
            ValueError: it is no text, or an empty one.
        """
        if not isinstance(text, str) or not text.strip():
            raise ValueError(
                f"the prompt {uid} has {text!r} in the column {self._key}, which GAD needs a text in: `gspo data "
                "teacher` collects the texts, gad.teacher_key names another column"
            )
        return torch.tensor(self._ends.tokens(text, self._tokenizer)[: self._limit], dtype=torch.int64)
