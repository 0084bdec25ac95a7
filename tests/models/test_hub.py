"""A hub name where the hub does not answer: one question, one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from messages import names

from gspo.cli import main
from gspo.models import hub


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub was asked; it never answers."""
    questions: list[str] = []

    class Session:
        def head(self, url: str, timeout: float) -> Any:
            assert timeout == 5.0
            questions.append(url)
            raise RuntimeError("Name or service not known\nand more")

    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.constants, "ENDPOINT", "https://hub.example")
    monkeypatch.setattr(hub, "get_session", Session)
    return questions


_FACTS = ("no folder org/name", "https://hub.example", "Name or service not known", "./name")


def test_a_hub_that_does_not_answer(asked: list[str]) -> None:
    with pytest.raises(hub.HubError) as caught:
        hub.require_hub("org/name")
    assert names(caught, *_FACTS, "no copy in the cache")
    assert asked == ["https://hub.example/org/name/resolve/main/config.json"]


@pytest.mark.usefixtures("asked")
def test_a_copy_in_the_cache_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    with pytest.raises(hub.HubError) as caught:
        hub.require_hub("org/name")
    assert names(caught, *_FACTS, "HF_HUB_OFFLINE=1 takes the copy")


def test_what_need_not_be_asked(asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (str(tmp_path), "./gone", "a/b/c", "~/gone"):
        hub.require_hub(name)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: f"/cache/{name}/{file}")
    hub.require_hub("org/name")
    assert asked == []


def test_offline_without_a_copy_says_how_to_get_one(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(hub.HubError) as caught:
        hub.require_hub("org/name")
    assert names(caught, "no folder org/name", "HF_HUB_OFFLINE=1", "unset", "hf download org/name`")
    assert asked == []


def test_a_page_of_the_hub_is_told_the_name_of_its_model(asked: list[str]) -> None:
    with pytest.raises(hub.HubError) as caught:
        hub.require_hub("https://huggingface.co/org/name/tree/main")
    assert names(caught, "https://huggingface.co/org/name/tree/main", "name alone: org/name")
    assert asked == []


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name", ["my model", "model=gpt2", "-m", "org/name:latest"])
def test_what_no_hub_name_can_be_is_not_asked_for(name: str) -> None:
    with pytest.raises(hub.HubError) as caught:
        hub.require_hub(name)
    assert names(caught, f"no folder {name}", "no model of the hub")


@pytest.mark.parametrize(("code", "refused"), [("RepoNotFound", True), ("GatedRepo", True), ("EntryNotFound", False)])
def test_a_model_that_the_hub_does_not_show(
    code: str, refused: bool, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Reply:
        headers = {"X-Error-Code": code}  # noqa: RUF012 (of a fake)

    class Session:
        def head(self, url: str, timeout: float) -> Reply:
            asked.append(f"{url} {timeout}")
            return Reply()

    monkeypatch.setattr(hub, "get_session", Session)
    if refused:
        with pytest.raises(hub.HubError) as caught:
            hub.require_hub("org/name")
        assert names(caught, "no folder org/name", code, "correct the name", "hf auth login")
    else:  # a repository of a tokenizer alone has no config.json
        hub.require_hub("org/name")
    assert len(asked) == 1


def test_eval_says_it_in_one_line(asked: list[str], tiny_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "org/name", "--data", str(tiny_data / "test.jsonl")]) == 1
    assert names(capsys.readouterr().err, "gspo: error: org/name: ", *_FACTS, "no copy in the cache")
    assert len(asked) == 1
