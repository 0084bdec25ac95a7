"""Which tokens end a response, and which of them ends a text that is learned from.

A base model's tokenizer names one end token, its generation config perhaps another, and a chat template closes the
assistant's turn with a third (Gemma's <end_of_turn>, Phi's <|end|>). A sampled response may end with any of them. A
given text ends as the template ends it: were it closed with another token than the model writes, a discriminator would
read the last token and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["Ends", "end_token_ids", "special_token_texts", "turn_end_id"]

# Stands for an assistant's message in a rendered conversation.
_ANSWER = "This is what the assistant says."


@dataclass(frozen=True)
class Ends:
    """The ends of a model's responses.

    Attributes:
        ids: all tokens that end a response, in order.
        turn: the one that the chat template ends the assistant's message with, which a given text gets.
        texts: how those of them are spelled that a text may hold.
    """

    ids: tuple[int, ...]
    turn: int
    texts: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel | None = None) -> Ends:
        """The ends by a tokenizer with its chat template, and by a model's generation config, where there is one."""
        turn = turn_end_id(tokenizer)
        ids = {tokenizer.eos_token_id, turn}
        if model is not None and model.generation_config is not None:
            named = model.generation_config.eos_token_id
            ids.update(named if isinstance(named, list) else [] if named is None else [named])
        spelled = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
        texts = {spelled.get(token_id) for token_id in ids} | {tokenizer.eos_token}
        return cls(tuple(sorted(ids)), turn, tuple(sorted(filter(None, texts))))

    def without(self, text: str) -> str:
        """A text without the ends that are written out behind it, and without the white space behind them."""
        while True:
            trimmed = text.rstrip()
            end = next((end for end in self.texts if trimmed.endswith(end)), None)
            if end is None:
                return text
            text = trimmed.removesuffix(end)

    def tokens(self, text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """A text's tokens as the model would have written them, with one end."""
        return [*tokenizer(self.without(text), add_special_tokens=False)["input_ids"], self.turn]


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens that end a response: the tokenizer's, its chat template's, and those of the generation config."""
    return Ends.of(tokenizer, model).ids


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that the chat template writes behind an assistant's message.

    It is the first special token of what follows the message, whether the conversation ends there or goes on; the
    tokenizer's end token where there is no template, or it closes a message with no such token.
    """
    end: int = tokenizer.eos_token_id
    if tokenizer.chat_template is None:
        return end
    question, answer = {"role": "user", "content": "Question"}, {"role": "assistant", "content": _ANSWER}
    tails = []
    for conversation in ([question, answer], [question, answer, question]):
        try:
            text = str(tokenizer.apply_chat_template(conversation, tokenize=False))
        except Exception:  # a template is a program: one that takes no assistant's message ends none
            return end
        _, found, tail = text.rpartition(_ANSWER)
        if not found:
            return end
        tails.append(tail)
    shared = takewhile(lambda pair: pair[0] == pair[1], zip(*tails, strict=False))
    closing = tokenizer("".join(letter for letter, _ in shared), add_special_tokens=False)["input_ids"]
    special = {*tokenizer.added_tokens_decoder, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    return next((token_id for token_id in closing if token_id in special), end)


def special_token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The special tokens by their texts: those that a response's text leaves out."""
    added = {token.content: token_id for token_id, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
