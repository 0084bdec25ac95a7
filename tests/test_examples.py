"""The example that explains the library does what the library does, to the last bit."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from gspo.commands.quickstart import prepare, quickstart_config
from gspo.config import Config, load_config
from gspo.data import load_dataset
from gspo.groups import Prompt
from gspo.models import Policy, load_model, load_tokenizer, prepare_model
from gspo.observe.jsonl import read_jsonl
from gspo.trainer import train
from gspo.trainer.sft import sft

pytestmark = pytest.mark.slow

_EXAMPLE = Path(__file__).parent.parent / "examples" / "gspo_in_one_file.py"
_ACTOR = "actor_rollout_ref.actor"


@pytest.fixture
def one_file(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example as a module, on one thread as the runs it is compared with."""
    spec = importlib.util.spec_from_file_location("gspo_in_one_file", _EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where its dataclasses look for it
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.fixture
def tiny(tiny_model_folder: Path) -> tuple[Policy, PreTrainedTokenizerBase]:
    """The model and tokenizer that `run_overrides` name."""
    model = load_model(str(tiny_model_folder))
    return Policy(model, compute=prepare_model(model)), load_tokenizer(str(tiny_model_folder))


def read_prompts(name: str, config: Config, tokenizer: PreTrainedTokenizerBase, folder: Path) -> list[Prompt]:
    return list(load_dataset(folder / name, config.data, tokenizer, text_key="answer_key"))


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in policy.model.named_parameters()}


def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: dict) -> float:  # noqa: ARG001
    """The part of distinct characters, but for every third row: its group has equal rewards and is not run."""
    return (int(ground_truth) % 3 > 0) * len(set(solution_str)) / (1 + len(solution_str))


def reward(prompt: Prompt, text: str) -> float:
    return compute_score(prompt.data_source, text, prompt.ground_truth, prompt.extra_info)


@pytest.mark.parametrize("max_tokens", [16384, 60], ids=["one part", "several parts"])
def test_one_file_equals_the_library(
    one_file: ModuleType,
    tiny: tuple[Policy, PreTrainedTokenizerBase],
    tiny_data: Path,
    tmp_path: Path,
    run_overrides: Callable[..., list[str]],
    max_tokens: int,
) -> None:
    """Three steps, the third in the second epoch: the same weights and the same held-out rewards."""
    (tmp_path / "reward.py").write_text(inspect.getsource(compute_score), encoding="utf-8")
    config = load_config(
        overrides=run_overrides(
            f"custom_reward_function.path={tmp_path / 'reward.py'}",
            f"data.val_files={tiny_data / 'test.jsonl'}",
            "actor_rollout_ref.rollout.val_kwargs={n: 2, do_sample: true, temperature: 1.0}",
            f"{_ACTOR}.ppo_max_token_len_per_gpu={max_tokens}",
            f"{_ACTOR}.optim.lr_warmup_steps=2",
            "actor_rollout_ref.rollout.n=5",
            "data.train_batch_size=5",
            "trainer.total_training_steps=3",
            "trainer.test_freq=1",
        )
    )
    settings = one_file.Settings(
        seed=config.trainer.seed,
        total_training_steps=3,
        train_batch_size=5,
        n=5,
        ppo_mini_batch_size=2,
        max_response_length=6,
        lr=1e-3,
        lr_warmup_steps=2,
        max_token_len=max_tokens,
        test_freq=1,
        test_n=2,
    )
    policy, tokenizer = tiny
    before = weights(policy)
    prompts, held_out = (read_prompts(name, config, tokenizer, tiny_data) for name in ("train.jsonl", "test.jsonl"))

    curve = one_file.train(policy, tokenizer, prompts, held_out, reward, settings)
    run = train(config)

    expected = weights(run.actor.policy)
    after = weights(policy)
    assert after.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(after[name], expected[name])] == []
    assert [name for name in expected if torch.equal(before[name], expected[name])] == []
    records = read_jsonl(run.folder / "metrics.jsonl")
    assert curve == pytest.approx([record["val-core/tiny/reward/mean@2"] for record in records])
    assert len(set(curve)) > 1
    assert any(record.get("actor/seq_clipfrac", 0.0) > 0 for record in records)


def test_the_supervised_start_equals_the_librarys(
    one_file: ModuleType,
    tiny: tuple[Policy, PreTrainedTokenizerBase],
    tiny_data: Path,
    run_overrides: Callable[..., list[str]],
) -> None:
    config = load_config(
        overrides=run_overrides(
            f"{_ACTOR}.optim.lr_warmup_steps=2",
            f"{_ACTOR}.optim.lr_scheduler_type=linear",
            f"{_ACTOR}.ppo_max_token_len_per_gpu=60",
            "data.max_response_length=12",
            "trainer.total_training_steps=4",
            "trainer.save_hf=true",
        )
    )
    settings = one_file.Settings(
        seed=config.trainer.seed,
        train_batch_size=4,
        lr_warmup_steps=2,
        max_token_len=60,
        supervised_steps=4,
        supervised_lr=1e-3,
    )
    policy, tokenizer = tiny
    prompts = read_prompts("train.jsonl", config, tokenizer, tiny_data)

    one_file.supervise(policy, tokenizer, prompts, [str(prompt.teacher_response) for prompt in prompts], settings)
    expected = load_file(sft(config) / "huggingface" / "model.safetensors")

    after = weights(policy)
    assert after.keys() == expected.keys()
    assert [name for name in expected if not torch.equal(after[name], expected[name])] == []


def test_task_and_settings_are_the_quickstarts(one_file: ModuleType, tmp_path: Path) -> None:
    prepare(tmp_path, seed=2)
    tokenizer = load_tokenizer(str(tmp_path / "untrained"))
    config, start = (quickstart_config(tmp_path, 2, supervised=supervised) for supervised in (False, True))
    prompts, held_out = one_file.make_prompts(tokenizer, 2)

    def shown(prompts: Sequence[Prompt]) -> list[tuple[object, ...]]:
        return [(prompt.uid, prompt.token_ids, prompt.text, prompt.ground_truth) for prompt in prompts]

    assert shown(prompts) == shown(read_prompts("train.parquet", config, tokenizer, tmp_path / "data"))
    assert shown(held_out) == shown(read_prompts("test.parquet", config, tokenizer, tmp_path / "data"))
    demonstrations = read_prompts("demonstrations.parquet", start, tokenizer, tmp_path / "data")
    assert one_file.careless_answers(prompts, 2) == [prompt.teacher_response for prompt in demonstrations]

    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert one_file.Settings(seed=2) == one_file.Settings(
        seed=config.trainer.seed,
        total_training_steps=config.trainer.total_training_steps,
        train_batch_size=config.data.train_batch_size,
        n=rollout.n,
        ppo_mini_batch_size=actor.ppo_mini_batch_size,
        max_response_length=config.data.max_response_length,
        clip_ratio_low=actor.clip_ratio_low,
        clip_ratio_high=actor.clip_ratio_high,
        lr=actor.optim.lr,
        lr_warmup_steps=actor.optim.lr_warmup_steps,
        weight_decay=actor.optim.weight_decay,
        clip_grad=actor.optim.clip_grad,
        max_token_len=actor.ppo_max_token_len_per_gpu,
        test_freq=config.trainer.test_freq,
        test_n=rollout.val_kwargs.n,
        supervised_steps=start.trainer.total_training_steps,
        supervised_lr=start.actor_rollout_ref.actor.optim.lr,
    )


def test_one_file_runs_as_a_script(one_file: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    one_file.main(["--steps", "1", "--supervised-steps", "2", "--threads", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4000 questions to train on, 200 held out; the first: Spell this word backward")
    assert [line.split()[0] for line in lines[3:6]] == ["step", "0", "1"]
    assert "everything included" in lines[-1]


def test_one_file_starts_from_a_model(
    one_file: ModuleType, tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one_file.main(["--steps", "0", "--model", str(tiny_model_folder)])
    assert "supervised start" not in capsys.readouterr().out


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, _EXAMPLE.parent / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["own_reward", "own_loss"])
def test_an_example_trains(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_example(name).main(["--steps", "2", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "step 2/2" in printed
    assert (tmp_path / "run" / "report.html").exists()
    if name == "own_loss":
        assert "clip 0.1 / 0.3, seq-mean-token-mean" in printed


def test_training_from_objects_in_memory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_example("train_from_python").main(["--steps", "1", "--supervised-steps", "3", "--out", str(tmp_path)])
    assert "held-out accuracy" in capsys.readouterr().out
    assert (tmp_path / "gspo" / "initial_model" / "config.json").exists()


def test_the_notebooks_cells_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = json.loads((_EXAMPLE.parent / "notebook.ipynb").read_text(encoding="utf-8"))["cells"]
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), "cell", "exec"), names)
    assert getattr(names["run"], "step", None) == 5
