"""`~` and relative paths: expanded where they enter, in every key that is a path."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from messages import names

from gspo.config import Config, ConfigError, load_config
from gspo.config.overrides import setting
from gspo.config.paths import expanded
from gspo.config.schema import to_dict
from gspo.config.settings import known_keys
from gspo.config.usage import key_facts

PATHS = [key for key, leaf in key_facts().items() if leaf.metadata["path"]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def value_of(config: Config, key: str) -> Any:
    tree: Any = to_dict(config)
    for part in key.split("."):
        tree = tree[part]
    return tree


def test_every_key_that_names_a_file_or_folder_is_a_path() -> None:
    named = ("path", "_dir", "_files", "_path", "external_modules", "chat_template")
    assert {key for key in known_keys() if key.endswith(named)} == set(PATHS)


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("value", ["~/a/b", "'~/a/b'", '"~/a/b"', "[~/a/b]"])
def test_the_home_folder_is_expanded_in_overrides_files_and_settings(
    key: str, value: str, home: Path, tmp_path: Path
) -> None:
    if value.startswith("[") and "list" not in str(known_keys()[key]):
        return
    more = ["trainer.resume_mode=resume_path"] if key.endswith("resume_from_path") else []
    whole = str(home / "a/b")
    expected = [whole] if "list" in str(known_keys()[key]) else whole
    (tmp_path / "c.yaml").write_text(f"{key}: {value if value[0] in '[' + chr(34) + chr(39) else repr(value)}\n")
    for config in (
        load_config(overrides=[f"{key}={value}", *more], external=False),
        load_config("~", "c", more, external=False),
        load_config(settings={key: value.strip("'\"[]")}, overrides=more, external=False),
    ):
        assert value_of(config, key) == expected


def test_what_only_holds_the_sign_stays() -> None:
    template = "{% if '~' %}~/x{% endif %}"
    config = load_config(
        settings={"chat_template": f"~{template}", "default_local_dir": "./~/a", "train_files": ["a~", "b/~/c"]}
    )
    assert config.policy_model.chat_template == f"~{template}"
    assert config.trainer.default_local_dir == "./~/a"
    assert config.data.train_files == ["a~", "b/~/c"]


def test_a_missing_home_folder_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["trainer.default_local_dir=~no_such_user/x"])
    assert names(caught, "trainer.default_local_dir=~no_such_user/x", "whole path", "./~no_such_user/x")
    with pytest.raises(ConfigError) as caught:
        expanded("a\0b", "--out")
    assert names(caught, "--out", "NUL")


@pytest.mark.parametrize("text", ["a b", "it's", 'say "x"', "back\\slash", "end\\", '\\"', "a,b=[c]{d}", "~/x", "(1)"])
def test_an_override_of_any_text_is_read_as_that_text(text: str) -> None:
    config = load_config(overrides=[setting("trainer.project_name", text)])
    assert config.trainer.project_name == text


def test_a_name_that_is_not_utf8_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        expanded(os.fsdecode(b"caf\xe9"), "--data")
    assert names(caught, "--data", "\\udce9")
