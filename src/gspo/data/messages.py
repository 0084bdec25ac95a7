"""From a prompt column's value to the text that the model reads.

One rule: a tokenizer with a chat template makes a conversation of every prompt (a plain text is one user message); a
tokenizer without one takes plain texts as they are and refuses conversations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["render_prompt", "to_messages"]

Messages = list[dict[str, str]]


def to_messages(value: Any, system_prompt: str | None = None) -> Messages | str:
    """Checks a prompt: a list of {role, content}, or a plain text, which is returned as it is.

    Args:
        value: the prompt column's value.
        system_prompt: put before a conversation that has no system message.

    Raises:
        ValueError: the value is neither, or a message lacks its role or its text. The row is for the caller to name.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the prompt is empty: write a text, or remove the row")
        return value
    if not isinstance(value, list):
        raise ValueError(f"the prompt is a {_kind(value)}: it must be a list of {{role, content}}, or a text")
    if not value:
        raise ValueError("the prompt is an empty list: it needs at least one message, or remove the row")
    messages = [_check_message(number, message) for number, message in enumerate(value)]
    if messages[-1]["role"] == "assistant":
        raise ValueError("the prompt ends with the assistant's message: end it with the user's")
    if system_prompt is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system_prompt})
    return messages


def render_prompt(
    prompt: Messages | str, tokenizer: Any, template_kwargs: Mapping[str, Any], system_prompt: str | None = None
) -> str:
    """The text of a prompt, with the chat template and the opening of the assistant's turn where there is a template.

    Raises:
        ValueError: a conversation without a chat template, or one that the template refuses.
    """
    if tokenizer.chat_template is None:
        if isinstance(prompt, str) and system_prompt is None:
            return prompt
        what = "a system prompt" if isinstance(prompt, str) else "a list of messages"
        raise ValueError(
            f"{what} needs a chat template and the tokenizer has none: set actor_rollout_ref.model.chat_template, "
            "or make the prompt column plain text" + (" and unset data.system_prompt" if system_prompt else "")
        )
    if isinstance(prompt, str):
        prompt = to_messages([{"role": "user", "content": prompt}], system_prompt)
    try:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **template_kwargs)
    except Exception as error:  # a template is a program and may raise anything
        roles = ", ".join(message["role"] for message in prompt)  # type: ignore[index]
        raise ValueError(
            f"the chat template refuses the roles [{roles}] ({error}): change the messages, "
            "or set actor_rollout_ref.model.chat_template"
        ) from error
    return str(text)


def _check_message(number: int, message: Any) -> dict[str, str]:
    if not isinstance(message, dict):
        raise ValueError(f"message {number} of the prompt is a {_kind(message)}: it must be {{role, content}}")
    for key in ("role", "content"):
        if message.get(key) is None:
            keys = ", ".join(map(str, message)) or "none"
            raise ValueError(f"message {number} of the prompt has no {key} (its keys: {keys}): add it")
        if not isinstance(message[key], str):
            raise ValueError(f"the {key} of message {number} of the prompt is a {_kind(message[key])}: write a text")
        if not message[key].strip():
            raise ValueError(f"the {key} of message {number} of the prompt is empty: write it, or remove the row")
    # Parquet gives each message every key that any message has.
    return {key: part for key, part in message.items() if part is not None}


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
