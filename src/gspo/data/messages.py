"""From a prompt column's value to the text that the model reads.

One rule: a tokenizer with a chat template makes a conversation of every prompt (a plain text is one user message); a
tokenizer without one takes plain texts as they are and refuses conversations.

A key of a message that is null counts as absent, at every depth: parquet gives each object every key that any object of
its column has, so that a call of one tool would have the arguments of all tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from gspo.config.texts import text_problem

__all__ = ["Messages", "render_prompt", "to_messages", "to_tools"]

Messages = list[dict[str, Any]]

# How Python writes a list of messages: what str() makes of one, and so pandas' to_csv.
_PYTHON_MESSAGES = re.compile(r"\s*\[\s*\{\s*'(role|content)'\s*:")


def to_messages(value: Any, system_prompt: str | None = None) -> Messages | str:
    """Checks a prompt: a list of {role, content}, or a plain text, which is returned as it is.

    A text that is a list of messages in JSON is that list; any other text in brackets is a text.

    Args:
        value: the prompt column's value.
        system_prompt: put before a conversation that has no system message.

    Raises:
        ValueError: the value is neither, a message lacks its role or its text, or a text in it cannot be encoded. The
            row is for the caller to name.
    """
    if isinstance(value, str):
        if not value.strip():
            raise ValueError("the prompt is empty: write a text, or remove the row")
        if _PYTHON_MESSAGES.match(value):
            raise ValueError(
                "the prompt is a list of messages as Python prints it, as a text: write it as JSON (json.dumps)"
            )
        value = _spelled(value)
    if problem := text_problem(value, "the prompt"):
        raise ValueError(problem)
    if isinstance(value, str):
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


def to_tools(value: Any, name: str) -> list[dict[str, Any]] | None:
    """Checks the tools of a row: a list of JSON schemas, or the same as JSON text; None where there is none.

    Args:
        value: the column's value.
        name: of the column, for messages.

    Raises:
        ValueError: it is something else.
    """
    remedy = "write a list of JSON schemas, or set data.tools_key=null where the column holds something else"
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{name} is a text that is not JSON: {remedy}") from error
    if problem := text_problem(value, name):
        raise ValueError(problem)
    value = _without_nulls(value)
    if value is not None and not (isinstance(value, list) and all(isinstance(tool, dict) for tool in value)):
        raise ValueError(f"{name} is no list of objects: {remedy}")
    return value or None


def render_prompt(
    prompt: Messages | str,
    tokenizer: Any,
    template_kwargs: Mapping[str, Any],
    system_prompt: str | None = None,
    tools: list[dict[str, Any]] | None = None,
) -> str:
    """The text of a prompt, with the chat template and the opening of the assistant's turn where there is a template.

    Args:
        prompt: of `to_messages`.
        tokenizer: of transformers.
        template_kwargs: further arguments of the template.
        system_prompt: put before a plain text.
        tools: of `to_tools`, for the template.

    Raises:
        ValueError: a conversation without a chat template, or one that the template refuses.
    """
    if tokenizer.chat_template is None:
        if isinstance(prompt, str) and system_prompt is None and tools is None:
            return prompt
        what = "a list of messages" if isinstance(prompt, list) else "a system prompt" if system_prompt else "tools"
        raise ValueError(
            f"{what} needs a chat template and the tokenizer has none: set actor_rollout_ref.model.chat_template, "
            "or make the prompt column plain text" + (" and unset data.system_prompt" if system_prompt else "")
        )
    if isinstance(prompt, str):
        prompt = to_messages([{"role": "user", "content": prompt}], system_prompt)
    arguments = dict(template_kwargs) if tools is None else {**template_kwargs, "tools": tools}
    try:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True, **arguments)
    except Exception as error:  # a template is a program and may raise anything
        roles = ", ".join(message["role"] for message in prompt)  # type: ignore[index]
        raise ValueError(
            f"the chat template refuses the roles [{roles}] ({' '.join(str(error).split())}): change the messages, "
            "or set actor_rollout_ref.model.chat_template"
        ) from error
    if problem := text_problem(text, "the prompt that the chat template makes", nul=False):
        raise ValueError(problem)
    return str(text)


def _spelled(text: str) -> Any:
    """What a text spells in JSON where that is messages (or one message), else the text."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    messages = value if isinstance(value, list) else [value]
    objects = all(isinstance(message, dict) for message in messages)
    return value if objects and any("role" in m and ("content" in m or "tool_calls" in m) for m in messages) else text


def _check_message(number: int, message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise ValueError(f"message {number} of the prompt is a {_kind(message)}: it must be {{role, content}}")
    keys = ", ".join(map(str, message)) or "none"
    message = _without_nulls(message)
    calls = message.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise ValueError(f"the tool_calls of message {number} of the prompt are no list of objects: write one")
    # A call needs no words, and a tool may have nothing to say.
    needs_content = not calls and message.get("role") != "tool"
    if not needs_content:
        message = {**message, "content": message.get("content", "")}
    for key in ("role", "content"):
        if key not in message:
            raise ValueError(f"message {number} of the prompt has no {key} (its keys: {keys}): add it")
        if not isinstance(message[key], str):
            raise ValueError(f"the {key} of message {number} of the prompt is a {_kind(message[key])}: write a text")
        if not message[key].strip() and (key == "role" or needs_content):
            raise ValueError(f"the {key} of message {number} of the prompt is empty: write it, or remove the row")
    return message


def _without_nulls(value: Any) -> Any:
    """The value without the keys that are null, at every depth; a null in a list is an item and stays."""
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
