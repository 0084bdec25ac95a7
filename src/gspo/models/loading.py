"""Reads a causal language model and its tokenizer from a Hugging Face folder or hub name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from gspo.config.paths import expanded, is_jinja
from gspo.config.texts import first_line
from gspo.models.folder import MODEL_FILES, TOKENIZER_FILES, check_files
from gspo.models.naming import mistaken_for_model
from gspo.models.preparing import dtype_named

__all__ = ["load_model", "load_tokenizer", "stored_dtype"]

_PATH_KEY = "actor_rollout_ref.model.path"


def load_tokenizer(
    path: str | None,
    *,
    chat_template: str | None = None,
    trust_remote_code: bool = False,
    path_key: str = _PATH_KEY,
) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or hub name.

    Args:
        path: folder or hub name.
        chat_template: a Jinja text, or a file with one, that replaces the tokenizer's own.
        trust_remote_code: let the folder's own code run.
        path_key: the configuration's key of `path`, for messages.

    Raises:
        ValueError: nothing can be loaded from there, a file of it is torn, or it has no end token.
    """
    path = _existing(path, path_key, ("config.json", "tokenizer_config.json", "tokenizer.json"))
    check_files(Path(path), TOKENIZER_FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # files that are JSON of another form make the libraries raise anything
        raise ValueError(
            f"no tokenizer could be loaded from {path} ({first_line(error)}): put its files there, or set "
            "actor_rollout_ref.model.tokenizer_path to a folder that has them"
        ) from error
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"the tokenizer in {path} has no end token, so no response could ever finish; set its eos_token"
        )
    if chat_template is not None:
        tokenizer.chat_template = chat_template if is_jinja(chat_template) else _template_of(chat_template)
    return tokenizer


def _template_of(path: str) -> str:
    key = "actor_rollout_ref.model.chat_template"
    file = expanded(path, key)
    if not file.is_file():
        raise ValueError(f"{key}: {path} is neither a file nor a Jinja text")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{key}: {path} cannot be read as text ({error}): write it again as UTF-8") from error
    if not text.strip():
        raise ValueError(f"{key}: {path} is empty: write the template, or take the key out for the tokenizer's own")
    return text


def load_model(
    path: str | None,
    *,
    dtype: str = "float32",
    override_config: Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    needs_head: bool = True,
    path_key: str = _PATH_KEY,
) -> PreTrainedModel:
    """Reads the model of a folder or hub name, on the CPU; `prepare_model` makes it ready to train.

    Args:
        path: folder or hub name.
        dtype: "float32", "bfloat16", "float16" or "float64".
        override_config: entries of the model's config to replace.
        trust_remote_code: let the folder's own code run.
        needs_head: whether the output head must be among the weights; not for one that is put in its place.
        path_key: the configuration's key of `path`, for messages.

    Raises:
        ValueError: nothing can be loaded, an unknown dtype or config entry, or weights that are missing or of another
            shape.
    """
    path = _existing(path, path_key, ("config.json",))
    wanted = dtype_named(dtype)
    check_files(Path(path), MODEL_FILES)
    transformers_logging.disable_progress_bar()  # loading is quick; its bars would cut through the run's own view
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # as above
        raise _unloadable(path, path_key, error) from error
    for name, value in (override_config or {}).items():
        if not hasattr(config, name):
            raise ValueError(
                f"actor_rollout_ref.model.override_config.{name}: {type(config).__name__} has no such entry"
            )
        setattr(config, name, value)
    return _read_weights(path, config, wanted, trust_remote_code, needs_head, path_key)


def _read_weights(
    path: str, config: PreTrainedConfig, dtype: torch.dtype, trust_remote_code: bool, needs_head: bool, path_key: str
) -> PreTrainedModel:
    """The model with every weight from its files; transformers would fill what is not there with random numbers."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its table of such weights comes as the error below
    try:
        model, found = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # as above, and what readers of weights raise
        raise _unloadable(path, path_key, error) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    for name, there, expected in sorted(found["mismatched_keys"]):
        raise ValueError(
            f"the model in {path} has {name} of shape {list(there)}, and its configuration asks for {list(expected)}: "
            "the weights are of another model, or actor_rollout_ref.model.override_config changes a size"
        )
    head = {f"{name}.weight" for name, module in model.named_modules() if module is model.get_output_embeddings()}
    missing = sorted(set(found["missing_keys"]) - (set() if needs_head else head))
    if missing:
        raise ValueError(
            f"the model in {path} lacks {len(missing)} of its weights, {missing[0]} for one: "
            "download or export the model again"
        )
    return model


def stored_dtype(path: str, trust_remote_code: bool = False) -> torch.dtype | None:
    """The type that a model's config names for its weights; None where it names none."""
    folder = _existing(path, _PATH_KEY, ("config.json",))
    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    named = config.get_text_config().dtype or config.dtype
    return named if isinstance(named, torch.dtype) else None


def _existing(path: str | None, path_key: str, marks: Sequence[str]) -> str:
    """The path, expanded; a folder must have one of the files `marks`."""
    if not path:
        raise ValueError(f"{path_key} is not set; give a folder with a Hugging Face model or a hub name")
    folder = expanded(path, path_key)
    looks_local = path.startswith((".", "/", "~")) or path.count("/") > 1
    if folder.exists():
        if problem := mistaken_for_model(folder):
            raise ValueError(f"{path_key}: {path} {problem}")
        if not any((folder / mark).is_file() for mark in marks):
            what = "tokenizer's" if len(marks) > 1 else "model"
            raise ValueError(
                f"{path} holds no {' or '.join(marks)}, so it is not a Hugging Face {what} folder: set "
                f"{path_key} to one (a run's is RUN/huggingface)"
            )
        return str(folder)
    if looks_local:
        raise ValueError(
            f"{path_key}: there is no folder {path}: set it to a folder with a Hugging Face model, or to a hub name"
        )
    return path


def _unloadable(path: str, path_key: str, error: Exception) -> ValueError:
    return ValueError(
        f"no model could be loaded from {path} ({first_line(error)}): download or export it again, or set {path_key} "
        "to another"
    )
