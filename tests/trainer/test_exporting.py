"""A model folder of a checkpoint has the bytes of the run's own export; what cannot be exported is one line."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from messages import names
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3Config

import gspo
from gspo.checkpoint import CheckpointError, load_checkpoint
from gspo.cli import main
from gspo.config import load_config
from gspo.models import processor_files

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]

KINDS = {
    "gspo": ("train", ()),
    "ppo_shared": ("train", ("algorithm.adv_estimator=gae", "critic.shared_backbone=true")),
    "gad": (
        "train",
        (
            "critic.enable=true",
            "data.teacher_key=answer",
            "trainer.gad_warmup_steps=1",
            "custom_reward_function.path=null",
        ),
    ),
    "sft": ("sft", ()),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def trained(run_overrides: Overrides, tmp_path: Path) -> Path:
    assert main(["train", *run_overrides("trainer.save_freq=1", "trainer.save_hf=true")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_has_the_bytes_of_the_runs_own(
    kind: str, run_overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, settings = KINDS[kind]
    assert main([command, *run_overrides(*settings, "trainer.save_freq=1", "trainer.save_hf=true")]) == 0
    run = tmp_path / "run"
    own = contents(run / "huggingface")
    shutil.rmtree(run / "huggingface")
    capsys.readouterr()
    assert main(["export", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "huggingface")
    assert contents(run / "huggingface") == own
    last = max((run / "checkpoints").glob("global_step_*"))
    assert main(["export", str(last), "--out", str(tmp_path / "model")]) == 0
    assert contents(tmp_path / "model") == own
    assert not list(run.rglob("*.tmp"))


def test_the_model_of_an_earlier_step(trained: Path) -> None:
    folder = gspo.export(gspo.load_run(trained), step=1)
    assert folder == trained / "huggingface-step-1"
    saved = load_checkpoint(trained / "checkpoints" / "global_step_1").tensors["actor"]
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in exported.items())
    assert contents(folder)["model.safetensors"] != contents(trained / "huggingface")["model.safetensors"]


def test_files_of_the_users_in_the_folder_stay_and_old_weights_go(trained: Path) -> None:
    folder = trained / "huggingface"
    own = contents(folder)
    (folder / "README.md").write_text("my model")
    (folder / "model-00001-of-00002.safetensors").write_text("of an earlier export")
    (folder / "model.safetensors").write_bytes(b"torn")
    gspo.export(trained)
    assert contents(folder) == own | {"README.md": b"my model"}


def test_a_damaged_checkpoint_is_passed_over(trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (trained / "checkpoints" / "global_step_2" / "actor.safetensors").write_bytes(b"")
    assert main(["export", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert names(capsys.readouterr().err, "passed over", "global_step_2", "actor.safetensors")
    assert (tmp_path / "out" / "config.json").is_file()


def test_what_cannot_be_exported(
    trained: Path, tiny_model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, empty, file = trained / "checkpoints" / "global_step_2", tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.touch()

    def said(*arguments: object) -> str:
        assert main(["export", *map(str, arguments)]) == 1
        return capsys.readouterr().err

    assert names(said(tmp_path / "none"), tmp_path / "none", "RUN/checkpoints/global_step_N")
    assert names(said(empty), empty, "trainer.default_local_dir")
    assert names(said(trained, "--step", 7), trained, "7", "1, 2")
    assert names(said(checkpoint, "--step", 2), checkpoint, "--step")
    assert names(said(trained, "--out", file), "--out", file)
    assert names(said(trained, "--out", checkpoint), "--out", checkpoint)
    assert names(said(trained, "--out", trained), "--out", trained)
    assert names(said(trained, "--set", "trainer.seed=2"), "trainer.seed", "actor_rollout_ref.model")
    config = trained / "config.yaml"
    text = config.read_text()
    config.write_text(text.replace(str(tiny_model_folder), str(tmp_path / "moved")))
    assert names(said(trained), tmp_path / "moved", "--set actor_rollout_ref.model.path=FOLDER")
    assert main(["export", str(trained), "--set", f"actor_rollout_ref.model.path={tiny_model_folder}"]) == 0
    config.unlink()
    assert names(said(trained), config, "run's folder")


def test_a_checkpoint_that_is_named_as_a_model_says_the_command(
    trained: Path, run_overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = trained / "checkpoints" / "global_step_1"
    capsys.readouterr()
    assert main(["train", *run_overrides(f"actor_rollout_ref.model.path={checkpoint}")]) == 1
    assert names(capsys.readouterr().err, "actor_rollout_ref.model.path", checkpoint, "gspo export")


def test_a_full_disk_leaves_the_earlier_export_and_no_draft(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = trained / "huggingface"
    own = contents(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    with pytest.raises(CheckpointError) as caught:
        gspo.export(trained)
    assert names(caught, folder, "disk is full", "same command")
    assert contents(folder) == own
    assert not (trained / "huggingface.tmp").exists()


def test_the_same_command_writes_what_a_kill_before_the_export_left_out(
    run_overrides: Overrides, trained: Path
) -> None:
    own = contents(trained / "huggingface")
    shutil.rmtree(trained / "huggingface")
    (trained / "report.html").unlink()
    assert main(["train", *run_overrides("trainer.save_freq=1", "trainer.save_hf=true")]) == 0
    assert contents(trained / "huggingface") == own
    assert (trained / "report.html").is_file()
    assert json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_a_bfloat16_folder_is_exported_in_bfloat16(
    run_overrides: Overrides, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Trained over float32 weights, as usual; by the run and by the command, which write the same bytes."""
    source = tmp_path / "bfloat16"
    AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=torch.bfloat16).save_pretrained(source)
    AutoTokenizer.from_pretrained(tiny_model_folder).save_pretrained(source)
    key = f"actor_rollout_ref.model.path={source}"
    assert main(["train", *run_overrides(key, "trainer.save_freq=1", "trainer.save_hf=true")]) == 0
    folder, saved = tmp_path / "run" / "huggingface", load_checkpoint(tmp_path / "run/checkpoints/global_step_2")
    trained, exported = saved.tensors["actor"], load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    assert all(torch.equal(tensor, trained[name].bfloat16()) for name, tensor in exported.items())
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"
    gspo.export(tmp_path / "run", out=tmp_path / "again")
    assert contents(tmp_path / "again") == contents(folder)
    in_float32 = tmp_path / "float32"
    command = ["export", str(tmp_path / "run"), "--out", str(in_float32), "--set", "trainer.save_hf_dtype=float32"]
    assert main(command) == 0
    assert {tensor.dtype for tensor in load_file(in_float32 / "model.safetensors").values()} == {torch.float32}


_PROCESSOR = {
    "processor_config.json": b'{"processor_class": "Gemma3Processor"}',
    "preprocessor_config.json": b'{"image_processor_type": "Gemma3ImageProcessor", "size": {"height": 8, "width": 8}}',
    "video_preprocessor_config.json": b'{"video_processor_type": "Gemma3VideoProcessor"}',
}


@pytest.fixture
def multimodal(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """A model of text and images with its processor's files."""
    folder, tokenizer = tmp_path / "multimodal", AutoTokenizer.from_pretrained(tiny_model_folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "head_dim": 16, "num_key_value_heads": 2}
    text["max_position_embeddings"] = 128
    ids = dict.fromkeys(("eos_token_id", "pad_token_id", "bos_token_id"), tokenizer.eos_token_id)
    vision = {**sizes, "image_size": 8, "patch_size": 4}
    config = Gemma3Config(text_config=text | ids, vision_config=vision, mm_tokens_per_image=4, **ids)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, content in _PROCESSOR.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("given", ["a folder", "an object"])
def test_a_multimodal_model_keeps_the_files_of_its_processor(
    given: str, multimodal: Path, run_overrides: Overrides, tmp_path: Path
) -> None:
    model, tokenizer, path = None, None, f"actor_rollout_ref.model.path={multimodal}"
    if given == "an object":
        model = AutoModelForCausalLM.from_pretrained(multimodal)
        tokenizer, path = AutoTokenizer.from_pretrained(multimodal), "actor_rollout_ref.model.path=null"
    overrides = run_overrides(path, "trainer.save_freq=1", "trainer.save_hf=true", "trainer.total_training_steps=1")
    gspo.train(load_config(overrides=overrides), model=model, tokenizer=tokenizer)
    own = contents(tmp_path / "run" / "huggingface")
    assert _PROCESSOR.items() <= own.items()
    assert own["chat_template.jinja"] == (multimodal / "chat_template.jinja").read_bytes()
    gspo.export(tmp_path / "run", out=tmp_path / "again")
    assert contents(tmp_path / "again") == own
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert type(again).__name__ == "Gemma3ForConditionalGeneration"


def test_a_model_of_text_alone_takes_no_such_file(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text"
    shutil.copytree(tiny_model_folder, folder)
    (folder / "preprocessor_config.json").write_bytes(b"{}")
    assert processor_files(AutoModelForCausalLM.from_pretrained(folder), str(folder)) == {}
