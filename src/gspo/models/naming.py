"""What stands in a model's place and is no model: files and folders that are named by mistake, each with what to do."""

from __future__ import annotations

import json
from pathlib import Path

from gspo.shell import gspo_command, python_command

__all__ = ["mistaken_for_model"]

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def mistaken_for_model(path: Path) -> str | None:
    """What a path is that is taken for a model's folder, and what to name or do in its place.

    Args:
        path: of a file or a folder that exists.

    Returns:
        the sentence behind the path; None for a folder of a model, and for one of which nothing is known.
    """
    if path.is_file():
        return _file(path)
    if (path / "state.json").is_file():  # beside a config.json, which says the same to others
        return f"is a checkpoint of a run: make a model of it by `{gspo_command('export', path)}`"
    if (path / "config.json").is_file():
        return None
    if (path / "adapter_config.json").is_file():
        return _adapter(path)
    if snapshots := sorted(path.glob("snapshots/*/config.json")):
        return f"is the hub's cache of a model: name {snapshots[-1].parent}"
    if (path / "huggingface" / "config.json").is_file():
        return f"is the folder of a run: name its model, {path / 'huggingface'}"
    if (path / "checkpoints").is_dir():
        return f"is the folder of a run without a model: make one by `{gspo_command('export', path)}`"
    if (path / "params.json").is_file() or list(path.glob("consolidated.*")):
        return "has a model in its maker's own format: name the folder of its Hugging Face form (with a config.json)"
    if list(path.glob("*.gguf")):
        return f"has {_GGUF.removeprefix('is ')}"
    if found := sorted(path.glob("*/config.json")):
        return f"has models in folders of its own: name one of them, such as {found[0].parent}"
    return None


_GGUF = (
    "is a GGUF file, quantised for llama.cpp, and cannot be trained: name the Hugging Face folder or hub name of the "
    "model that it was made from"
)


def _file(path: Path) -> str:
    if path.suffix.lower() == ".gguf":
        return _GGUF
    if path.suffix.lower() in _WEIGHTS and (path.parent / "config.json").is_file():
        return f"is a file of weights: name its folder, {path.parent}"
    if path.name == "config.json":
        return f"is a file: name its folder, {path.parent}"
    return "is a file, and a model is a folder with config.json, weights and tokenizer: name that"


def _adapter(path: Path) -> str:
    try:
        content = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        base = str(content["base_model_name_or_path"])
    except (ValueError, KeyError, TypeError):
        base = "its base model"
    merged = f"{path}-merged"
    program = (
        f"import peft, transformers; m = peft.AutoPeftModelForCausalLM.from_pretrained('{path}'); "
        f"m.merge_and_unload().save_pretrained('{merged}'); "
        f"transformers.AutoTokenizer.from_pretrained('{base}').save_pretrained('{merged}')"
    )
    command = f'{python_command()} -c "{program}"'
    return f"is an adapter (LoRA) of {base}, not a whole model: merge the two by `{command}`, and name {merged}"
