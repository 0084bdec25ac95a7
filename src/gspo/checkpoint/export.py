"""A folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load, here or anywhere."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from gspo.checkpoint.files import CheckpointError, sync, writing

__all__ = ["export_hf"]

_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_CONFIG = "config.json"
_DRAFT = ".tmp"


def export_hf(model: Any, tokenizer: Any, path: Path | str) -> None:
    """Writes a transformers model with its generation config, and its tokenizer with the chat template.

    The attention implementation is this process's choice and is not written: a loader picks its own. Everything is
    written next to the folder first: killed at any moment, no file in it is torn, and `config.json`, without which
    nothing loads it, comes last. Other files in the folder stay.

    Args:
        model: a `PreTrainedModel`, whole on this process (not sharded or wrapped).
        tokenizer: a `PreTrainedTokenizerBase`.
        path: the folder, made where it is missing.

    Raises:
        CheckpointError: `model` cannot be saved by `save_pretrained`, or the disk takes no more.
    """
    if not hasattr(model, "save_pretrained"):
        raise CheckpointError(
            f"a {type(model).__name__} has no save_pretrained; gather and unwrap the transformers model first"
        )
    path = Path(path).resolve()
    draft = path.with_name(path.name + _DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    try:
        with writing(path):
            draft.mkdir(parents=True)
            _write(model, tokenizer, draft)
            _move(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(model: Any, tokenizer: Any, path: Path) -> None:
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    config_file = path / _CONFIG
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(_without_attention(config), indent=2) + "\n", encoding="utf-8")


def _move(draft: Path, path: Path) -> None:
    """Puts the draft's files in place of those of the same name; weights of an earlier export go."""
    for file in draft.rglob("*"):
        sync(file)
    path.mkdir(parents=True, exist_ok=True)
    files = sorted(draft.rglob("*"), key=lambda file: file.name == _CONFIG)
    names = {file.relative_to(draft) for file in files}
    for old in path.glob("model*.safetensors*"):
        if old.relative_to(path) not in names:
            old.unlink()
    for file in files:
        target = path / file.relative_to(draft)
        if file.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    sync(path)


def _without_attention(config: Any) -> Any:
    """The config, nested configs included, without the keys that name an attention implementation."""
    if isinstance(config, dict):
        return {key: _without_attention(value) for key, value in config.items() if key not in _ATTENTION_KEYS}
    return config
