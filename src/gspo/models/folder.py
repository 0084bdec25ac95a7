"""The files of a model's folder, looked at before transformers reads them: what is torn is named by its file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

__all__ = ["MODEL_FILES", "TOKENIZER_FILES", "check_files"]

TOKENIZER_FILES = (
    "config.json",
    "tokenizer_config.json",
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
)
# transformers passes over a generation config that is torn, and so over the end tokens in it.
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
)


def check_files(folder: Path, names: Iterable[str]) -> None:
    """Holds that those of these files that a folder has are whole JSON objects.

    Raises:
        ValueError: one is not; names the file.
    """
    for file in (folder / name for name in names):
        if file.is_file() and (problem := _problem(file)):
            raise ValueError(f"{file} {problem}: download or export the model again")


def _problem(file: Path) -> str | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, or nested without an end
        return "is empty" if file.stat().st_size == 0 else f"is not whole JSON ({error})"
    return None if isinstance(content, dict) else f"holds a {type(content).__name__}, not an object"
