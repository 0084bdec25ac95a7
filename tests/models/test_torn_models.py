"""Torn files of a model's folder: one line that names the file, whatever the libraries make of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from messages import names

from gspo.config.schema import ModelConfig
from gspo.models import load_actor_tokenizer
from gspo.models.folder import MODEL_FILES, TOKENIZER_FILES
from gspo.models.loading import load_model, load_tokenizer

TORN = {
    "empty": b"",
    "cut": b'{"model_type": "lla',
    "no text": bytes(range(128, 256)),
    "a list": b"[]",
    "a number": b"3",
    "null": b"null",
    "deep": b"[" * 100_000,
}


@pytest.fixture
def folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_folder, tmp_path / "model"))


@pytest.mark.parametrize("content", TORN.values(), ids=TORN)
def test_torn_json_is_named(content: bytes, folder: Path) -> None:
    for load, files in ((load_tokenizer, TOKENIZER_FILES), (load_model, MODEL_FILES)):
        for file in (folder / name for name in files):
            whole = file.read_bytes() if file.exists() else None
            file.write_bytes(content)
            with pytest.raises(ValueError, match=r"again$") as caught:
                load(str(folder))
            assert names(caught, file)
            if whole is None:
                file.unlink()
            else:
                file.write_bytes(whole)


@pytest.mark.parametrize("content", [b"", b"{}", bytes(range(256)), None], ids=["empty", "json", "garbage", "cut"])
def test_torn_weights_are_named(content: bytes | None, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10] if content is None else content)
    with pytest.raises(ValueError, match="no model could be loaded") as caught:
        load_model(str(folder))
    assert names(caught, folder, "download or export", "actor_rollout_ref.model.path")


def test_json_of_another_form_is_one_line(folder: Path) -> None:
    for content in ({}, {"model": 3}, {"model": {}, "added_tokens": 3}):
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match="no tokenizer could be loaded") as caught:
            load_tokenizer(str(folder))
        assert names(caught, folder, "actor_rollout_ref.model.tokenizer_path")


@pytest.mark.parametrize(("content", "part"), [(b"", "empty"), (b"\xff\xfe", "UTF-8")])
def test_a_template_file_that_cannot_be_used(content: bytes, part: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_bytes(content)
    with pytest.raises(ValueError, match="chat_template") as caught:
        load_tokenizer(str(folder), chat_template=str(tmp_path / "chat.jinja"))
    assert names(caught, tmp_path / "chat.jinja", part)


def test_a_folder_of_a_tokenizer_alone_is_enough_for_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    load_tokenizer(str(folder)).save_pretrained(alone)
    assert not (alone / "config.json").exists()
    assert load_tokenizer(str(alone)).get_vocab() == load_tokenizer(str(folder)).get_vocab()
    with pytest.raises(ValueError, match=r"no config\.json") as caught:
        load_model(str(alone), path_key="critic.model.path")
    assert names(caught, alone, "critic.model.path")


def test_messages_name_the_key_that_was_set(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "none"):
        with pytest.raises(ValueError, match=r"actor_rollout_ref\.model\.tokenizer_path") as caught:
            load_actor_tokenizer(ModelConfig(path=str(folder), tokenizer_path=str(path)))
        assert names(caught, path)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"critic\.model\.path"):
        load_model(str(folder), path_key="critic.model.path")
