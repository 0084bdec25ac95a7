"""A folder that `AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load, here or anywhere."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gspo.checkpoint.files import CheckpointError, sync, writing

__all__ = ["export_hf"]

_ATTENTION_KEYS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")
_CONFIG = "config.json"
_DRAFT = ".tmp"


def export_hf(
    model: Any,
    tokenizer: Any,
    path: Path | str,
    *,
    end_ids: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Writes a transformers model with its generation config, and its tokenizer with the chat template.

    The attention implementation is this process's choice and is not written: a loader picks its own. Everything is
    written next to the folder first: killed at any moment, no file in it is torn, and `config.json`, without which
    nothing loads it, comes last. Other files in the folder stay.

    Args:
        model: a `PreTrainedModel`, whole on this process (not sharded or wrapped).
        tokenizer: a `PreTrainedTokenizerBase`.
        path: the folder, made where it is missing.
        end_ids: tokens that end a response; the exported generation config names them too, so that what is sampled
            elsewhere ends where it did here.
        dtype: type of the weights that are written; None: the model's own.
        files: further files by name, written as they are where neither model nor tokenizer has one of that name.

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
            _write(model, tokenizer, draft, end_ids, dtype)
            for name, content in (files or {}).items():
                if not (draft / name).exists():
                    (draft / name).write_bytes(content)
            _move(draft, path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(model: Any, tokenizer: Any, path: Path, end_ids: Sequence[int], dtype: torch.dtype | None) -> None:
    if dtype is None or dtype == model.dtype:
        model.save_pretrained(path)
    else:
        model.save_pretrained(path, state_dict=_cast(model.state_dict(), dtype))
        _rewrite(path / _CONFIG, lambda config: {**config, "dtype": str(dtype).removeprefix("torch.")})
    tokenizer.save_pretrained(path)
    _rewrite(path / _CONFIG, _without_attention)
    if end_ids:
        _rewrite(path / "generation_config.json", lambda generation: _with_ends(generation, end_ids))


def _cast(state: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The weights in another type; those that are tied stay one tensor."""
    cast: dict[int, torch.Tensor] = {}
    for tensor in state.values():
        if tensor.data_ptr() not in cast:
            cast[tensor.data_ptr()] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return {name: cast[tensor.data_ptr()] for name, tensor in state.items()}


def _rewrite(file: Path, change: Callable[[Any], Any]) -> None:
    """Changes a JSON file, which is taken for an empty object where there is none."""
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(change(content), indent=2) + "\n", encoding="utf-8")


def _with_ends(generation: dict[str, Any], end_ids: Sequence[int]) -> dict[str, Any]:
    """The generation config with these end tokens behind its own: the first serves some readers as padding."""
    named = generation.get("eos_token_id")
    own = named if isinstance(named, list) else [] if named is None else [named]
    ends = list(dict.fromkeys([*own, *end_ids]))
    return {**generation, "eos_token_id": ends[0] if len(ends) == 1 else ends}


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
