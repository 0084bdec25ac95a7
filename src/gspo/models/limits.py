"""Lengths beyond which a model becomes another one, so that packed rows and sampled tokens would not be its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

__all__ = ["require_length"]


def require_length(config: PreTrainedConfig, longest: int, name: str) -> None:
    """Checks that a model is the same function of its tokens up to this length.

    Args:
        config: the model's.
        longest: tokens of the longest prompt and response together.
        name: what the model is called, as in "the model in FOLDER".

    Raises:
        ValueError: it has fewer positions, or changes at a length below; says which and what to do.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is not None and longest > positions:
        raise ValueError(
            f"the longest prompt and data.max_response_length together are {longest} tokens, and {name} has "
            f"{positions} positions: lower data.max_response_length or data.max_prompt_length"
        )
    for limit, why in _changes(text):
        if longest > limit:
            raise ValueError(
                f"the longest prompt and data.max_response_length together are {longest} tokens, and {name} {why} "
                f"behind {limit} tokens, so that a token's log-probability would depend on what comes after it: lower "
                f"data.max_response_length or data.max_prompt_length to {limit} together"
            )


def _changes(text: PreTrainedConfig) -> Iterator[tuple[int, str]]:
    """Each length at which the model becomes another one, and how."""
    given: dict[str, Any] = getattr(text, "rope_parameters", None) or {}
    by_layer = [part for part in given.values() if isinstance(part, dict) and "rope_type" in part]
    for rope in by_layer or [given]:
        kind = rope.get("rope_type", "default")
        if kind == "longrope":  # short factors up to here, long ones for all positions of a longer row
            yield rope["original_max_position_embeddings"], "takes other rotary positions (rope_type longrope)"
        elif "dynamic" in kind:  # frequencies follow the length of the row
            yield text.max_position_embeddings, f"takes other rotary positions (rope_type {kind})"
    chunk = getattr(text, "attention_chunk_size", None)
    if chunk is not None:
        yield chunk, "attends within chunks (attention_chunk_size)"
