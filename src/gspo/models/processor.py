"""Files of a multimodal model that say how images, sounds and films are read: kept for its export, not used here."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import cached_file

__all__ = ["PROCESSOR_FILES", "processor_files"]

PROCESSOR_FILES = (
    "processor_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "audio_tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
)


def processor_files(model: PreTrainedModel, path: str | None = None) -> dict[str, bytes]:
    """The processor's files next to a model, by name: none of a model of text alone.

    Args:
        model: the model; only one whose config holds that of a text model within has a processor.
        path: folder or hub name from which it was read; None: the one that it names itself, where it names one.
    """
    source = path or model.name_or_path
    if model.config.get_text_config() is model.config or not source:
        return {}
    found = {}
    for name in PROCESSOR_FILES:
        file = cached_file(
            source,
            name,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if file is not None:
            found[name] = Path(file).read_bytes()
    return found
