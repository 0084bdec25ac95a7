"""The text of a response that rewards see: special tokens that the user keeps, and thoughts that the prompt opened."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gspo.groups import Prompt, Response
from gspo.rewards.base import RewardError

__all__ = ["KeptTokens", "opens_thoughts", "with_opening"]

_THINK = "<think>"


def opens_thoughts(prompt: Prompt) -> bool:
    """Whether the prompt ends in <think>, as the chat templates of some models write it: the response goes on in it."""
    return prompt.text.rstrip().endswith(_THINK)


def with_opening(prompt: Prompt, text: str) -> str:
    """A response's text with the <think> that its prompt opened."""
    return _THINK + text if opens_thoughts(prompt) and not text.lstrip().startswith(_THINK) else text


class KeptTokens:
    """Spells responses with some of the tokenizer's special tokens, which their text is without.

    Args:
        names: the special tokens to keep, as text.
        tokenizer: the policy's.

    Raises:
        RewardError: a name is not a special token of the tokenizer.
    """

    def __init__(self, names: Sequence[str], tokenizer: Any) -> None:
        special = {id_: token.content for id_, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
        for name in names:
            if name not in special.values():
                raise RewardError(
                    f"reward.keep_special_tokens names {name!r}, which is not a special token of the tokenizer (one "
                    f"that is not special is kept as it is); its special tokens: {', '.join(sorted(special.values()))}"
                )
        self._tokenizer = tokenizer
        self._left_out = frozenset(id_ for id_, name in special.items() if name not in names)
        self._kept = re.compile("|".join(map(re.escape, names)))

    def __call__(self, response: Response) -> Response:
        """The response with the kept tokens in its text, which still ends where it was cut at a stop text."""
        ids = [id_ for id_ in response.token_ids if id_ not in self._left_out]
        spelled = self._tokenizer.decode(ids, skip_special_tokens=False)
        return replace(response, text=self._cut(spelled, response.text))

    def _cut(self, spelled: str, text: str) -> str:
        """`spelled` up to where it goes beyond `text`, spaces not counted: some may be put between tokens."""
        left, place = sum(not sign.isspace() for sign in text), 0
        while place < len(spelled):
            if kept := self._kept.match(spelled, place):
                place = kept.end()
                continue
            if not spelled[place].isspace():
                if left == 0:
                    break
                left -= 1
            place += 1
        return spelled[:place]
