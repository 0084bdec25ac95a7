"""Supervised fine-tuning against plain cross-entropy, and resumed against uninterrupted."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from gspo.checkpoint import load_checkpoint
from gspo.cli import main
from gspo.config import load_config
from gspo.models import load_tokenizer
from gspo.trainer import sft as module
from gspo.trainer.sft import answer_response, sft

Overrides = Callable[..., list[str]]


@pytest.fixture
def start(run_overrides: Overrides, tiny_data: Path) -> Callable[..., Path]:
    def run(*further: str) -> Path:
        val = f"data.val_files={tiny_data / 'test.jsonl'}"
        return sft(load_config(None, None, run_overrides("data.max_response_length=12", val, *further)))

    return run


def lines(folder: Path) -> list[dict[str, Any]]:
    clocks = ("timing_", "perf/time", "perf/throughput", "perf/cores", "time")
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if not key.startswith(clocks)} for record in records]


def plain_loss(folder: Path, file: Path, limit: int) -> tuple[torch.Tensor, Any, int]:
    """Mean cross-entropy of the answers' tokens and end tokens, a forward for each row."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tokenizer = load_tokenizer(str(folder))
    losses = []
    for line in file.read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer.encode(row["prompt"][0]["content"] + "\n", add_special_tokens=False)
        answer = [*tokenizer.encode(row["answer"], add_special_tokens=False), tokenizer.eos_token_id][:limit]
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
        losses.append(cross_entropy(logits, torch.tensor(answer), reduction="none"))
    tokens = torch.cat(losses)
    return tokens.mean(), model, len(tokens)


@pytest.mark.parametrize("budget", [1, 60, 16384])
def test_loss_and_gradient_are_cross_entropys(
    budget: int, start: Callable[..., Path], tiny_model_folder: Path, tiny_data: Path
) -> None:
    folder = start(
        "data.train_batch_size=10",
        "actor_rollout_ref.actor.ppo_mini_batch_size=10",
        "trainer.total_training_steps=1",
        f"actor_rollout_ref.actor.ppo_max_token_len_per_gpu={budget}",
    )
    before, after = lines(folder)
    loss, model, num_tokens = plain_loss(tiny_model_folder, tiny_data / "train.jsonl", 12)
    loss.backward()
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    held_out, _, _ = plain_loss(tiny_model_folder, tiny_data / "test.jsonl", 12)
    assert after["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert after["train/num_tokens"] == num_tokens == sum(range(2, 12))
    assert after["actor/grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert after["train/answers_cut"] == 0.0
    assert before == {
        "step": 0,
        "val/loss": pytest.approx(held_out.item(), rel=1e-5),
        "val/perplexity": pytest.approx(math.exp(held_out.item()), rel=1e-4),
    }
    assert after["val/loss"] < before["val/loss"]


def test_the_export_is_what_was_validated_last(start: Callable[..., Path], tiny_data: Path) -> None:
    folder = start("trainer.save_hf=true")
    held_out, _, _ = plain_loss(folder / "huggingface", tiny_data / "test.jsonl", 12)
    assert lines(folder)[-1]["val/loss"] == pytest.approx(held_out.item(), rel=1e-5)


def test_answers_that_are_cut_are_counted(start: Callable[..., Path], tiny_model_folder: Path, tiny_data: Path) -> None:
    batch = ("data.train_batch_size=10", "actor_rollout_ref.actor.ppo_mini_batch_size=10")
    folder = start(*batch, "trainer.total_training_steps=1", "data.max_response_length=5")
    loss, _, num_tokens = plain_loss(tiny_model_folder, tiny_data / "train.jsonl", 5)
    step = lines(folder)[-1]
    assert step["train/answers_cut"] == 0.6  # of 1 to 10 characters, with the end token 5 to 10 do not fit
    assert step["train/num_tokens"] == num_tokens == 2 + 3 + 4 + 7 * 5
    assert step["train/loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_an_answer_ends_with_the_end_token(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_folder))
    whole, cut = answer_response("abc", tokenizer, 4), answer_response("abc", tokenizer, 3)
    assert whole.token_ids == [*tokenizer.encode("abc", add_special_tokens=False), tokenizer.eos_token_id]
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.token_ids == whole.token_ids[:3]


@pytest.mark.parametrize("killed_in", [2, 3, 4])
def test_killed_and_resumed_is_never_killed(
    killed_in: int, start: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = (
        "trainer.total_training_steps=4",
        "trainer.save_freq=1",
        "trainer.test_freq=2",
        "actor_rollout_ref.actor.optim.lr_scheduler_type=linear",
    )
    whole = start(f"trainer.default_local_dir={tmp_path}/whole", *settings)
    original = module._Supervised.take_step

    def take_step(self: Any, step: int) -> Any:
        taken = original(self, step)  # what it changed is lost
        if step == killed_in:
            raise KeyboardInterrupt
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(module._Supervised, "take_step", take_step)
        with pytest.raises(KeyboardInterrupt):
            start(*settings)
    assert [line["step"] for line in lines(tmp_path / "run")] == list(range(killed_in))
    run = start(*settings)
    assert lines(run) == lines(whole)
    end, expected = (load_checkpoint(folder / "checkpoints" / "global_step_4") for folder in (run, whole))
    assert end.state == expected.state
    for entry in expected.tensors:
        ours, theirs = end.tensors[entry], expected.tensors[entry]
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_finished_run_says_so(start: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    start()
    capsys.readouterr()
    start()
    assert "nothing to train: step 2 of 2 is done" in capsys.readouterr().out


def test_a_supervised_run_is_not_resumed_by_train(
    start: Callable[..., Path], run_overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = start()
    capsys.readouterr()
    assert main(["train", *run_overrides()]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"gspo: error: {folder}/checkpoints/global_step_2 was written by gspo sft and cannot be resumed by gspo train: "
        "set trainer.default_local_dir to a folder of its own, or trainer.resume_mode=disable "
        "(the earlier run is moved aside)"
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "data.answer_key=solution",
            "row 0 (counted from 0): there is no column 'solution' with a text to learn from (the columns: "
            "data_source, prompt, reward_model, answer): add it, or set data.answer_key\n",
        ),
        ("data.answer_key=reward_model", "row 0 (counted from 0): reward_model is a dict: it must be a text"),
    ],
)
def test_rows_without_an_answer_are_refused(
    override: str, message: str, run_overrides: Overrides, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sft", *run_overrides(override)]) == 1
    assert message in capsys.readouterr().err


def test_what_it_does_not_use_is_said_once(start: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    start("actor_rollout_ref.actor.ppo_epochs=3", "actor_rollout_ref.rollout.mode=async", "trainer.logger=[console]")
    said = capsys.readouterr().out
    assert said.count("actor_rollout_ref.actor.ppo_epochs") == 1
    assert (
        "gspo sft does not use them; one training step is one optimizer step on data.train_batch_size prompts" in said
    )
    assert "key actor_rollout_ref.rollout.mode has no effect here: the local engine samples on the trainer's" in said
