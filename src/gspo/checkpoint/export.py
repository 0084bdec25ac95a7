"""A folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load, here or anywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gspo.checkpoint.files import CheckpointError

__all__ = ["export_hf"]

_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def export_hf(model: Any, tokenizer: Any, path: Path | str) -> None:
    """Writes a transformers model with its generation config, and its tokenizer with the chat template.

    The attention implementation is this process's choice and is not written: a loader picks its own.

    Args:
        model: a `PreTrainedModel`, whole on this process (not sharded or wrapped).
        tokenizer: a `PreTrainedTokenizerBase`.

    Raises:
        CheckpointError: `model` cannot be saved by `save_pretrained`.
    """
    if not hasattr(model, "save_pretrained"):
        raise CheckpointError(
            f"a {type(model).__name__} has no save_pretrained; gather and unwrap the transformers model first"
        )
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    config_file = path / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(_without_attention(config), indent=2) + "\n", encoding="utf-8")


def _without_attention(config: Any) -> Any:
    """The config, nested configs included, without the keys that name an attention implementation."""
    if isinstance(config, dict):
        return {key: _without_attention(value) for key, value in config.items() if key not in _ATTENTION_KEYS}
    return config
