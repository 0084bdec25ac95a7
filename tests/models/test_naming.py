"""What is named in a model's place: each is told for what it is, with what to name or run."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from messages import names

from gspo.models import load_tokenizer
from gspo.models.naming import mistaken_for_model
from gspo.shell import gspo_command


def put(folder: Path, *files: str) -> Path:
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text("{}")
    return folder


CASES: dict[str, tuple[list[str], str, list[str]]] = {
    "a GGUF file": (["m.gguf"], "m.gguf", ["GGUF", "Hugging Face folder or hub name"]),
    "a folder of GGUF files": (["m/a.Q4.gguf"], "m", ["GGUF"]),
    "a file of weights": (["m/config.json", "m/model.safetensors"], "m/model.safetensors", ["name its folder, HERE/m"]),
    "the configuration": (["m/config.json"], "m/config.json", ["name its folder, HERE/m"]),
    "another file": (["m.zip"], "m.zip", ["a model is a folder"]),
    "the hub's cache": (
        ["models--a--b/snapshots/1f/config.json", "models--a--b/refs/main"],
        "models--a--b",
        ["name HERE/models--a--b/snapshots/1f"],
    ),
    "a run": (["run/huggingface/config.json", "run/checkpoints/x"], "run", ["HERE/run/huggingface"]),
    "a run without a model": (["run/checkpoints/x"], "run", [f"`{gspo_command('export')} HERE/run`"]),
    "a checkpoint": (["c/state.json", "c/config.json"], "c", [f"`{gspo_command('export')} HERE/c`"]),
    "its maker's own format": (["m/params.json", "m/consolidated.00.pth"], "m", ["config.json"]),
    "a folder of models": (["all/qwen/config.json", "all/llama/config.json"], "all", ["HERE/all/llama"]),
}


@pytest.mark.parametrize(("files", "named", "parts"), CASES.values(), ids=CASES)
def test_it_is_told_for_what_it_is(files: list[str], named: str, parts: list[str], tmp_path: Path) -> None:
    put(tmp_path, *files)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the parts are held below)
        load_tokenizer(str(tmp_path / named))
    assert names(caught, "actor_rollout_ref.model.path", tmp_path / named)
    assert names(str(caught.value).replace(str(tmp_path), "HERE"), *parts)


def test_an_adapter_is_merged_by_a_program_that_python_reads(tmp_path: Path) -> None:
    adapter = put(tmp_path / "adapter", "adapter_config.json", "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    said = str(mistaken_for_model(adapter))
    assert names(said, "adapter (LoRA) of org/base", f"name {adapter}-merged")
    program = shlex.split(said.split("`")[1])[2]
    compile(program, "-c", "exec")
    assert f"from_pretrained('{adapter}')" in program
    assert "AutoTokenizer.from_pretrained('org/base')" in program
    (adapter / "adapter_config.json").write_text("no JSON")
    assert "its base model" in str(mistaken_for_model(adapter))


def test_a_model_is_no_mistake(tmp_path: Path) -> None:
    assert mistaken_for_model(put(tmp_path / "m", "config.json", "adapter_config.json")) is None
    assert mistaken_for_model(put(tmp_path / "unknown", "notes")) is None
