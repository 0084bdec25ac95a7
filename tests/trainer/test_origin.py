"""What a run began with besides its settings: its day, its data's names and answers, its threads, its reference."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from messages import names
from transformers import AutoTokenizer

from gspo.checkpoint import CheckpointError, load_checkpoint, seed_generators
from gspo.config import ConfigError, load_config
from gspo.models.scratch import make_model_folder
from gspo.trainer import origin, train

pytestmark = pytest.mark.slow

Overrides = Callable[..., list[str]]
_DATED = "Today is {{ strftime_now('%d %B %Y, %H:%M') }}. {% for m in messages %}{{ m['content'] }}{% endfor %}"


class Clock(origin.datetime):
    """Each look at the clock is a year later."""

    year_of = 2030

    @classmethod
    def now(cls, tz: Any = None) -> Any:
        del tz
        Clock.year_of += 1
        return cls(Clock.year_of, 2, 3, 4, 5, 6)


@pytest.fixture
def run(run_overrides: Overrides) -> Callable[..., None]:
    def start(*further: str) -> None:
        train(load_config(None, None, run_overrides("trainer.save_freq=1", "trainer.logger=[console]", *further)))

    return start


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def same_end(ours: Path, theirs: Path, step: int) -> bool:
    end, expected = (load_checkpoint(run / "checkpoints" / f"global_step_{step}") for run in (ours, theirs))
    both = [(end.tensors[entry], expected.tensors[entry]) for entry in expected.tensors]
    return all(torch.equal(mine[name], tensor) for mine, other in both for name, tensor in other.items())


def test_the_day_belongs_to_the_run(
    run: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(origin, "datetime", Clock)
    (tmp_path / "dated.jinja").write_text(_DATED)
    template = f"actor_rollout_ref.model.chat_template={tmp_path / 'dated.jinja'}"
    longer = "data.max_prompt_length=80"
    run(template, longer, "trainer.total_training_steps=1")
    day = "03 February 2031, 04:05"
    assert "2031-02-03" in capsys.readouterr().out
    run(template, longer, "trainer.total_training_steps=2")
    assert capsys.readouterr().out.count("2031-02-03") == 1
    prompts = [record["prompt"] for record in records(tmp_path / "run", "samples.jsonl")]
    assert prompts
    assert all(day in prompt for prompt in prompts)


def test_two_runs_on_two_days_are_the_same_where_the_day_is_set(
    run: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(origin, "datetime", Clock)
    (tmp_path / "dated.jinja").write_text(_DATED)
    template = f"actor_rollout_ref.model.chat_template={tmp_path / 'dated.jinja'}"
    dated = (template, "data.max_prompt_length=80", "trainer.logger=[console,jsonl]")
    first, second, other = (f"trainer.default_local_dir={tmp_path / name}" for name in ("first", "second", "other"))
    run(*dated, first)
    began = records(tmp_path / "first", "samples.jsonl")[0]["prompt"]
    said = " ".join("".join(capsys.readouterr()).split())
    (day,) = re.findall(r"data\.template_date=(\d{4}-02-03) gives it to another run", said)
    assert f"Today is 03 February {day[:4]}" in began
    key = f"data.template_date={day}"
    run(*dated, second, key)
    run(*dated, other, key)
    prompts = [record["prompt"] for record in records(tmp_path / "second", "samples.jsonl")]
    assert all(f"Today is 03 February {day[:4]}, 00:00. " in prompt for prompt in prompts)
    assert same_end(tmp_path / "second", tmp_path / "other", 2)
    assert f"have the day of {day}" in " ".join("".join(capsys.readouterr()).split())
    # A run keeps its day, whatever is asked for later.
    run(*dated, second, "data.template_date=2001-01-01", "trainer.total_training_steps=3")
    said = " ".join("".join(capsys.readouterr()).split())
    assert names(said, f"began with {day}", "data.template_date")
    assert f"{day[:4]}, 00:00" in records(tmp_path / "second", "samples.jsonl")[-1]["prompt"]


def test_a_day_that_is_none_or_does_nothing(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    for text in ("31.01.2026", "2026-02-30", "today"):
        with pytest.raises(ConfigError) as caught:
            load_config(overrides=[f"data.template_date={text}"])
        assert names(caught.value, "data.template_date", text, "2026-01-31")
    run("data.template_date=2026-01-31", "trainer.total_training_steps=1")
    assert names(" ".join("".join(capsys.readouterr()).split()), "data.template_date=2026-01-31 has no effect")


def test_the_day_of_a_yaml_file_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "dated.yaml").write_text("data: {template_date: 2026-01-31}")
    assert load_config(str(tmp_path), "dated").data.template_date == "2026-01-31"


def test_a_template_without_a_date_keeps_no_moment(run: Callable[..., None], tmp_path: Path) -> None:
    run("trainer.total_training_steps=1")
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "global_step_1").state["origin"]
    assert kept["moment"] is None


def test_a_renamed_file_is_the_same_data_with_the_same_draws(
    run: Callable[..., None], tiny_data: Path, tmp_path: Path
) -> None:
    whole = f"trainer.default_local_dir={tmp_path / 'whole'}"
    run(whole)
    run("trainer.total_training_steps=1")
    renamed = tmp_path / "renamed.jsonl"
    renamed.write_bytes((tiny_data / "train.jsonl").read_bytes())
    run(f"data.train_files={renamed}")
    assert same_end(tmp_path / "run", tmp_path / "whole", 2)


def test_other_answers_to_the_same_prompts_are_said(
    run: Callable[..., None], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [f"data.{split}_files={tmp_path / f'{split}.jsonl'}" for split in ("train", "val")]
    text = (tiny_data / "train.jsonl").read_text()
    for split in ("train", "val"):
        (tmp_path / f"{split}.jsonl").write_text(text)
    run("trainer.total_training_steps=1", *files)
    assert "data.train_files" not in capsys.readouterr().out
    (tmp_path / "train.jsonl").write_text(text.replace('"ground_truth": "3"', '"ground_truth": "4"'))
    (tmp_path / "val.jsonl").write_text(text.replace("train 3", "train 4"))
    run(*files)
    said = capsys.readouterr().out
    assert said.count("the answers of data.train_files") == 1
    assert said.count("the prompts of data.val_files") == 1


def test_other_threads_are_said(run: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        run("trainer.total_training_steps=1")
        assert "trainer.num_threads" not in capsys.readouterr().out
        run("trainer.num_threads=2")
    finally:
        torch.set_num_threads(before)
    assert "began with 1 threads and goes on with 2" in capsys.readouterr().out


def test_other_weights_under_the_path_of_a_reference_are_refused(run: Callable[..., None], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    sizes = {"hidden_size": 32, "num_layers": 1, "max_positions": 128}
    make_model_folder(folder, **sizes, seed=1)
    model, holds = f"actor_rollout_ref.model.path={folder}", "actor_rollout_ref.actor.use_kl_loss=true"
    run(model, holds, "trainer.total_training_steps=1")
    AutoTokenizer.from_pretrained(folder)
    other = make_model_folder(tmp_path / "other", **sizes, seed=2)
    (folder / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        run(model, holds)
    assert names(caught, tmp_path / "run", "actor_rollout_ref.model.path", "trainer.resume_mode=disable")


def test_another_dtype_is_one_line(run: Callable[..., None]) -> None:
    run("trainer.total_training_steps=1")
    with pytest.raises(CheckpointError) as caught:
        run("actor_rollout_ref.model.dtype=bfloat16")
    assert names(caught, "actor_rollout_ref.model.dtype=float32", "bfloat16", "trainer.default_local_dir")


def test_every_global_generator_is_seeded() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.random()), float(torch.rand(()))

    seed_generators(2**40)
    first = draws()
    seed_generators(2**40)
    assert draws() == first
    seed_generators(3)
    assert all(mine != other for mine, other in zip(draws(), first, strict=True))


@pytest.mark.parametrize("key", ["weight_decay=0.5", "betas=[0.5,0.9]", "eps=1e-3"])
def test_the_optimizers_options_are_those_of_the_configuration(
    key: str, run: Callable[..., None], tmp_path: Path
) -> None:
    run("trainer.total_training_steps=1")
    run(f"actor_rollout_ref.actor.optim.{key}")
    options = load_checkpoint(tmp_path / "run" / "checkpoints" / "global_step_2").state["actor"]["optimizer"]["groups"]
    name, _, value = key.partition("=")
    expected = json.loads(value)
    assert options[0]["options"][name] == expected
    assert options[1]["options"]["weight_decay"] == 0.0
