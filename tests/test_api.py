"""The Python door: objects in place of paths give the same run, callbacks end it, and what it left can be read."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import gspo
from gspo.api import configure
from gspo.checkpoint import CheckpointError
from gspo.config import ConfigError, notices
from gspo.groups import Group, Prompt, Response
from gspo.rewards import RewardError
from gspo.rollout import EngineContext, SamplingParams
from gspo.rollout.local import make_local
from gspo.trainer import train as train_by_config

SETTINGS: dict[str, Any] = {
    "policy_loss": "gspo",
    "n": 3,
    "lr": 1e-3,
    "actor_rollout_ref.actor.ppo_mini_batch_size": 2,
    "train_batch_size": 4,
    "max_prompt_length": 40,
    "max_response_length": 6,
    "total_training_steps": 2,
    "num_threads": 1,
    "save_hf": False,
    "logger": ["jsonl"],
}


def distinct(solution_str: str) -> dict[str, float]:
    """The part of distinct characters, so that random text scores differently."""
    return {"score": len(set(solution_str)) / (1 + len(solution_str)), "acc": float("e" in solution_str)}


@pytest.fixture
def rows(tiny_data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tiny_data / "train.jsonl").read_text().splitlines()]


@pytest.fixture
def settings(tiny_model_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {**SETTINGS, "model": tiny_model_folder, "default_local_dir": str(tmp_path / "run")}


def weights(run: Any) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = run.checkpoint().tensors["actor"]
    return found


def assert_equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def as_frame(rows: list[dict[str, Any]]) -> Any:
    """What a pandas frame offers, of which only these two are used."""

    class Frame:
        columns = tuple(rows[0])

        def to_dict(self, kind: str) -> list[dict[str, Any]]:
            assert kind == "records"
            return [{**row, "note": float("nan")} for row in rows]

    return Frame()


def as_dataset(rows: list[dict[str, Any]]) -> Any:
    """What a data set of Hugging Face offers."""

    class Dataset:
        column_names = tuple(rows[0])

        def to_list(self) -> list[dict[str, Any]]:
            return rows

    return Dataset()


def test_every_kind_of_rows_gives_the_same_bits(
    settings: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    before = json.dumps(rows)
    expected = None
    kinds = {"list": rows, "arrow": pa.Table.from_pylist(rows), "frame": as_frame(rows), "dataset": as_dataset(rows)}
    for name, data in kinds.items():
        run = gspo.train(train_data=data, rewards=distinct, **settings | {"default_local_dir": str(tmp_path / name)})
        if expected is None:
            expected = run
        assert_equal(weights(run), weights(expected))
        assert run.metrics["critic/score/mean"] == expected.metrics["critic/score/mean"]
    assert json.dumps(rows) == before


def test_the_command_lines_run_is_the_same_to_the_bit(
    settings: dict[str, Any], run_overrides: Any, tiny_data: Path, tmp_path: Path
) -> None:
    by_config = train_by_config(
        gspo.load_config(overrides=run_overrides(f"trainer.default_local_dir={tmp_path / 'a'}"))
    )
    run = gspo.train(
        train_data=str(tiny_data / "train.jsonl"),
        **settings,
        **{"custom_reward_function.path": str(tiny_data / "reward.py")},
    )
    assert_equal(weights(run), weights(gspo.load_run(by_config.folder)))


def test_a_model_object_is_trained_in_place_and_gives_the_bits_of_its_folder(
    settings: dict[str, Any], rows: list[dict[str, Any]], tiny_model_folder: Path, tmp_path: Path
) -> None:
    further = {"use_kl_loss": True, "algorithm.use_kl_in_reward": False}
    by_path = gspo.train(train_data=rows, rewards=distinct, **settings, **further)
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    settings |= {"model": model, "tokenizer": tokenizer, "default_local_dir": str(tmp_path / "object")}
    run = gspo.train(train_data=rows, rewards=distinct, **settings, **further)
    assert_equal(weights(run), weights(by_path))
    assert run.metrics["actor/kl_loss"] == by_path.metrics["actor/kl_loss"]
    trained = model.state_dict()
    assert_equal({name: trained[name] for name in weights(run)}, weights(run))
    # Resumed with the trained object, the reference is still the model that the run began with.
    longer = settings | {"total_training_steps": 3, "tokenizer": tiny_model_folder}  # a folder does as well
    resumed = gspo.train(train_data=rows, rewards=distinct, **longer, **further)
    by_path = gspo.train(
        train_data=rows,
        rewards=distinct,
        **longer | {"model": tiny_model_folder, "tokenizer": None, "default_local_dir": str(tmp_path / "run")},
        **further,
    )
    assert resumed.step == 3
    assert_equal(weights(resumed), weights(by_path))
    assert resumed.metrics["actor/kl_loss"].to_pylist() == by_path.metrics["actor/kl_loss"].to_pylist()
    with pytest.raises(ValueError, match="tokenizer="):
        gspo.train(train_data=rows, rewards=distinct, **settings | {"tokenizer": None})


def test_supervised_training_from_objects(
    settings: dict[str, Any], rows: list[dict[str, Any]], tiny_model_folder: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = {key: value for key, value in settings.items() if key not in ("policy_loss", "n")}
    settings |= {"model": model, "tokenizer": AutoTokenizer.from_pretrained(tiny_model_folder)}
    run = gspo.sft(train_data=rows, val_data=rows[:3], **settings)
    losses = [loss for loss in run.metrics["val/loss"].to_pylist() if loss is not None]
    assert losses[-1] < losses[0]
    assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_steps_of_ones_own_loop_are_those_of_train(
    settings: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = gspo.train(train_data=rows, rewards=distinct, **settings)
    settings["default_local_dir"] = str(tmp_path / "steps")
    with gspo.Trainer(train_data=rows, rewards=distinct, **settings) as trainer:
        first = trainer.step()
        assert first["training/global_step"] == 1
        assert not trainer.is_done
        trainer.step()
        assert trainer.is_done
        with pytest.raises(ValueError, match=r"trainer\.total_training_steps"):
            trainer.step()
        groups = trainer.generate(trainer.run.train_data.prompts[:2], n=2)
        assert [len(group.responses) for group in groups] == [2, 2]
    assert_equal(weights(gspo.load_run(tmp_path / "steps")), weights(whole))


def test_a_run_goes_on_from_its_folder(settings: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    whole = gspo.train(train_data=rows, rewards=distinct, **settings)
    settings["default_local_dir"] = str(tmp_path / "parts")
    with gspo.Trainer(train_data=rows, rewards=distinct, **settings) as trainer:
        trainer.step()
        assert trainer.save().name == "global_step_1"
    resumed = gspo.train(train_data=rows, rewards=distinct, **settings)
    assert_equal(weights(resumed), weights(whole))


def test_a_callback_sees_each_step_and_may_end_the_run(settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    seen: list[tuple[int, float, int]] = []

    def on_step(step: int, metrics: Any, groups: Sequence[Group]) -> bool:
        seen.append((step, metrics["critic/score/mean"], len(groups)))
        return step == 2

    run = gspo.train(train_data=rows, rewards=distinct, callbacks=[on_step], **settings | {"total_training_steps": 5})
    assert [(step, count) for step, _, count in seen] == [(1, 4), (2, 4)]
    assert run.step == 2
    assert run.checkpoint().step == 2
    assert run.metrics["critic/score/mean"].to_pylist() == [score for _, score, _ in seen]
    assert run.report.exists()


def test_ctrl_c_ends_the_step_saves_and_the_run_goes_on(
    settings: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    whole = gspo.train(train_data=rows, rewards=distinct, **settings)
    settings["default_local_dir"] = str(tmp_path / "interrupted")

    def interrupt(step: int, *_: Any) -> None:
        if step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        gspo.train(train_data=rows, rewards=distinct, callbacks=[interrupt], **settings)
    assert gspo.load_run(tmp_path / "interrupted").checkpoint().step == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert_equal(weights(gspo.train(train_data=rows, rewards=distinct, **settings)), weights(whole))


class Recording:
    """An engine of one's own: it writes letters in turn, and notes how it is called."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.versions: list[int] = []
        self.closed = False

    def generate(self, prompts: Sequence[Prompt], sampling: SamplingParams, *, n: int, step: int, **_: Any) -> Any:
        assert sampling.max_tokens == 6
        self.steps.append(step)
        texts = ["abc", "ab", "aaa"]
        return [
            Group(prompt, [Response([5 + i, 6, 5], [-1.0] * 3, texts[i % 3], "length") for i in range(n)])
            for prompt in prompts
        ]

    def load_weights(self, _: Any, version: int) -> None:
        self.versions.append(version)

    def close(self) -> None:
        self.closed = True


def test_an_engine_of_ones_own_samples(settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    engine = Recording()
    run = gspo.train(train_data=rows, rewards=distinct, engine=engine, **settings)
    assert engine.steps == [1, 2]
    assert engine.versions == [0, 1, 2]
    assert engine.closed
    expected = sum(len(set(text)) / (1 + len(text)) for text in ("abc", "ab", "aaa")) / 3
    assert run.metrics["critic/score/mean"].to_pylist() == pytest.approx([expected] * 2)
    with pytest.raises(ValueError, match="has no load_weights and no close"):
        gspo.train(train_data=rows, rewards=distinct, engine=ScriptedLike(), **settings)


class ScriptedLike:
    """Lacks two of an engine's methods."""

    def generate(self) -> None: ...


def test_an_engine_is_chosen_by_its_name(settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    made: list[EngineContext] = []

    @gspo.register_engine("mine")
    def make(context: EngineContext) -> Any:
        made.append(context)
        return make_local(context)

    gspo.train(train_data=rows, rewards=distinct, **settings, **{"actor_rollout_ref.rollout.name": "mine"})
    assert len(made) == 1
    with pytest.raises(ValueError, match=r"rollout\.name=mime is unknown; known: local, mine"):
        gspo.train(train_data=rows, rewards=distinct, **settings, **{"actor_rollout_ref.rollout.name": "mime"})


def test_several_rewards_are_added_with_their_weights(settings: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    class Longer:
        """An object that is called."""

        async def __call__(self, solution_str: str, prompt_str: str) -> float:
            assert "spell" in prompt_str
            return float(len(solution_str))

    rewards = {"distinct": (2.0, distinct), "longer": (0.5, Longer()), "flat": lambda **_: 1.0}
    metrics = gspo.train(train_data=rows, rewards=rewards, **settings).metrics
    for step in range(2):
        mean = {name: metrics[f"reward/{name}/mean"].to_pylist()[step] for name in rewards}
        expected = 2 * mean["distinct"] + 0.5 * mean["longer"] + mean["flat"]
        assert metrics["critic/score/mean"].to_pylist()[step] == pytest.approx(expected, abs=1e-5)
    assert mean["flat"] == 1.0


@pytest.mark.parametrize(
    ("rewards", "parts"),
    [
        (3, ["rewards", "int"]),
        (lambda text: len(text), ["reward cannot be called", "solution_str", "text"]),
        ([], ["rewards", "no function"]),
    ],
    ids=["number", "parameter", "none"],
)
def test_a_reward_that_cannot_be_called_is_said_before_anything_is_loaded(
    rewards: Any, parts: list[str], settings: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    with pytest.raises(RewardError) as caught:
        gspo.train(train_data=rows, rewards=rewards, **settings)
    assert all(part in str(caught.value) for part in parts)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ([{"prompt": "a"}, 3], ["train_data", "row 1", "int"]),
        ([{"prompt": "a"}, {"prompt": None}], ["train_data", "row 1"]),
        ([], ["train_data", "no rows"]),
        ({"train": [{"prompt": "a"}]}, ["train_data", "train_data['train']"]),
        ((row for row in ()), ["train_data", "generator", "list of dicts"]),
        ([{"question": "a"}], ["train_data", "'prompt'", "data.prompt_key"]),
    ],
    ids=["no dict", "no prompt", "empty", "parts", "generator", "column"],
)
def test_rows_that_cannot_be_used_are_named(data: Any, parts: list[str], settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the parts say which)
        gspo.train(train_data=data, rewards=distinct, **settings)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_settings_by_their_last_name() -> None:
    config = configure(n=8, lr=2e-3, temperature=0.7, total_training_steps=3, policy_loss="gspo", seed=4)
    assert config.actor_rollout_ref.rollout.n == 8
    assert config.actor_rollout_ref.actor.optim.lr == 2e-3
    assert config.actor_rollout_ref.rollout.temperature == 0.7
    assert config.trainer.total_training_steps == 3
    assert config.trainer.seed == 4
    assert "actor_rollout_ref.rollout.n" in config.user_set
    with pytest.raises(ConfigError) as caught:
        configure(path="x")
    assert all(key in str(caught.value) for key in ("actor_rollout_ref.model.path", "custom_reward_function.path"))
    with pytest.raises(ConfigError, match="did you mean"):
        configure(policy_los="gspo")


def test_a_configuration_is_a_preset_a_mapping_a_file_or_itself(tmp_path: Path) -> None:
    preset = configure("quickstart", n=5)
    assert preset.actor_rollout_ref.rollout.n == 5
    assert preset.data.train_batch_size == gspo.load_config(None, "quickstart").data.train_batch_size
    (tmp_path / "mine.yaml").write_text("trainer: {seed: 9}\n", encoding="utf-8")
    assert configure(tmp_path / "mine.yaml").trainer.seed == 9
    assert configure({"trainer": {"seed": 7}, "data.seed": 3}).data.seed == 3
    assert configure(preset) is preset
    changed = configure(preset, seed=8)
    assert changed.trainer.seed == 8
    # What a resolved configuration holds is not what the user set: nothing is said of it.
    assert changed.user_set == preset.user_set | {"trainer.seed"}
    assert notices(changed) == notices(configure("quickstart", n=5, seed=8))


def test_evaluate_gives_intervals(tiny_model_folder: Path, tiny_data: Path) -> None:
    (result,) = gspo.evaluate(
        tiny_model_folder, str(tiny_data / "test.jsonl"), rewards=distinct, n=2, max_response_length=6, num_threads=1
    )
    assert (result.num_prompts, result.n, result.data_source) == (3, 2, "tiny")
    assert 0 <= result.interval[0] <= result.accuracy <= result.interval[1] <= 1


def test_what_a_run_left(settings: dict[str, Any], rows: list[dict[str, Any]], tmp_path: Path) -> None:
    run = gspo.train(
        train_data=rows, val_data=rows[:2], rewards=distinct, **settings | {"save_hf": True, "test_freq": 1}
    )
    again = gspo.load_run(run.folder)
    assert again.config.actor_rollout_ref.rollout.n == 3
    assert again.metrics["step"].to_pylist() == [0, 1, 2]
    assert again.metrics["critic/score/mean"].to_pylist()[0] is None
    logged = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert again.metrics["actor/grad_norm"].to_pylist()[1:] == [line["actor/grad_norm"] for line in logged[1:]]
    assert set(again.samples["split"].to_pylist()) == {"train", "val"}
    exported = dict(again.model().state_dict())
    assert_equal({name: exported[name] for name in weights(run)}, weights(run))
    assert again.tokenizer()("a")["input_ids"]
    assert repr(again) == f"FinishedRun({str(run.folder)!r}, step 2)"
    assert "critic/score/mean" in again._repr_html_()
    with pytest.raises(CheckpointError, match="global_step_7"):
        again.checkpoint(7)
    with pytest.raises(ValueError, match=r"no metrics\.jsonl"):
        gspo.load_run(tmp_path)


@pytest.mark.slow
def test_the_public_names_are_loaded_when_they_are_used() -> None:
    program = (
        "import sys, gspo\n"
        "before = [name for name in ('torch', 'transformers', 'pyarrow', 'yaml') if name in sys.modules]\n"
        "assert set(gspo.__all__) <= set(dir(gspo))\n"
        "gspo.load_config\n"
        "print(before, 'torch' in sys.modules)\n"
        "print([name for name in gspo.__all__ if not hasattr(gspo, name)])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "[] False\n[]\n"
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        gspo.tarin  # noqa: B018


def test_a_launcher_of_several_processes_is_refused_from_python_too(
    tiny_model_folder: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    settings = {"model": str(tiny_model_folder), "default_local_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"torchrun starts 4 processes \(WORLD_SIZE=4\)"):
        gspo.train(**settings, train_data=str(tiny_data / "train.jsonl"))
