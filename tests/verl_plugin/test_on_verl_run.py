"""The guide's command on a CPU: three stages through verl's own trainer, and a run that was killed goes on.

Everything is verl's but the inference engine, in whose place are scripted responses (`scripted_rollout`): its agent
loops, reward loop, transfer queue, replay buffer, workers, FSDP2 engines under gloo, and checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from gspo.models.scratch import make_model_folder
from gspo.observe.report.folder import read_curves

HERE = Path(__file__).parent
STEPS, WARMUP, ALONE, KILLED_AFTER = 6, 2, 2, 3
PRINTED = (
    "--config-path configs --config-name gad_gspo_config algorithm.adv_estimator=grpo "
    "actor_rollout_ref.actor.policy_loss=gspo actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean "
    f"trainer.critic_warmup={ALONE}"
).split()
SMALL = [
    f"gad.warmup_steps={WARMUP}",
    f"trainer.total_training_steps={STEPS}",
    "trainer.total_epochs=9",
    "trainer.save_freq=1",
    "data.train_batch_size=2",
    "data.max_prompt_length=64",
    "data.max_response_length=8",
    "data.dataloader_num_workers=0",
    "data.seed=7",
    "actor_rollout_ref.rollout.n=2",
    "actor_rollout_ref.actor.ppo_mini_batch_size=2",
    # Large enough that three steps show.
    "actor_rollout_ref.actor.optim.lr=1e-2",
    "critic.optim.lr=1e-2",
]
ON_A_CPU = [
    "trainer.device=cpu",
    "trainer.n_gpus_per_node=1",
    "actor_rollout_ref.rollout.name=scripted",
    "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
    "actor_rollout_ref.rollout.agent.num_workers=1",
    "reward.num_workers=1",
    "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
    "ray_kwargs.ray_init.num_cpus=16",
    "+ray_kwargs.ray_init.num_gpus=1",
    "+ray_kwargs.ray_init.include_dashboard=false",
    *[f"+{part}.model.override_config.attn_implementation=eager" for part in ("actor_rollout_ref", "critic")],
    *[f"{part}.model.use_remove_padding=false" for part in ("actor_rollout_ref", "critic")],
    *[
        key
        for part in ("actor_rollout_ref.actor.fsdp_config", "actor_rollout_ref.ref.fsdp_config", "critic.fsdp")
        for key in (
            f"{part}.use_torch_compile=false",
            f"+{part}.mixed_precision={{param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}}",
        )
    ],
]


@dataclass(frozen=True)
class Finished:
    folder: Path

    @cached_property
    def steps(self) -> dict[int, dict[str, Any]]:
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        return {record["step"]: record["data"] for record in map(json.loads, lines)}

    def weights(self, part: str, step: int) -> dict[str, torch.Tensor]:
        file = self.folder / f"global_step_{step}" / part / "model_world_size_1_rank_0.pt"
        loaded = torch.load(file, weights_only=False)
        return {name: getattr(value, "to_local", lambda value=value: value)() for name, value in loaded.items()}


def run_on_cpu(folder: Path, inputs: Path) -> Finished:
    """The printed command with its data, and what a CPU and a tiny model need."""
    further = [
        f"data.train_files={inputs / 'train.parquet'}",
        f"actor_rollout_ref.model.path={inputs / 'model'}",
        f"trainer.default_local_dir={folder}",
        f"trainer.rollout_data_dir={folder / 'rollouts'}",
        f"hydra.run.dir={folder / 'hydra'}",
    ]
    environment = os.environ | {
        "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu,scripted_rollout",
        "VERL_FILE_LOGGER_PATH": str(folder / "metrics.jsonl"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "HYDRA_FULL_ERROR": "1",
    }
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "verl.trainer.main_ppo", *PRINTED, *SMALL, *ON_A_CPU, *further]
    output = folder / "output.txt"
    with output.open("w") as file:
        done = subprocess.run(command, cwd=inputs, env=environment, stdout=file, stderr=file, timeout=900)
    assert done.returncode == 0, output.read_text()[-8000:]
    return Finished(folder)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model and six rows; there is no folder `configs`, so that the recipe's is found."""
    folder = tmp_path_factory.mktemp("inputs")
    make_model_folder(folder / "model", hidden_size=32, num_layers=2, max_positions=128)
    rows = [
        {"prompt": [{"role": "user", "content": f"say {number}"}], "teacher_response": "jihgfe"[: number + 1]}
        for number in range(6)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    return folder


@pytest.fixture(scope="module")
def whole(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return run_on_cpu(tmp_path_factory.mktemp("runs") / "whole", inputs)


def test_the_stages_follow_one_another(whole: Finished) -> None:
    assert [whole.steps[step]["training/gad_stage"] for step in range(1, STEPS + 1)] == [0, 0, 1, 1, 2, 2]
    assert [step for step, data in whole.steps.items() if "actor/sft_loss" in data] == [1, 2]
    assert [step for step, data in whole.steps.items() if "actor/pg_loss" in data] == [5, 6]
    for data in whole.steps.values():
        assert data["critic/d_loss"] > 0
        assert 0 <= data["critic/d_acc"] <= 1
        # The reward is the score of the discriminator before the step's update.
        assert data["critic/score/mean"] == pytest.approx(data["critic/student_value_mean"], abs=1e-5)
        assert "critic/vf_explained_var" not in data


def test_each_stage_moves_what_it_should(whole: Finished) -> None:
    def moved(part: str, step: int) -> bool:
        before, after = whole.weights(part, step - 1), whole.weights(part, step)
        return any(not torch.equal(before[name], after[name]) for name in before)

    assert [moved("actor", step) for step in range(2, STEPS + 1)] == [True, False, False, True, True]
    assert all(moved("critic", step) for step in range(2, STEPS + 1))


def test_the_reference_is_the_student_after_its_warmup(whole: Finished) -> None:
    reference = load_file(whole.folder / "gad_reference" / f"global_step_{WARMUP}" / "rank_0_of_1.safetensors")
    student = whole.weights("actor", WARMUP)
    for name, value in reference.items():
        torch.testing.assert_close(value, student[name], rtol=0, atol=0, msg=name)
    # The first adversarial step begins where the warmup ended; the second has moved away.
    assert whole.steps[5]["actor/kl_loss"] == pytest.approx(0, abs=1e-6)
    assert whole.steps[6]["actor/kl_loss"] > 1e-5


def test_the_report_reads_its_metrics_and_samples(whole: Finished) -> None:
    run = read_curves(whole.folder)
    assert run.curves["critic/d_loss"].steps == tuple(range(1, STEPS + 1))
    assert len(run.samples) == STEPS * 4
    assert {sample["split"] for sample in run.samples} == {"train"}
    assert run.samples[0]["reward"] is not None


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(whole: Finished, inputs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "resumed"
    folder.mkdir()
    shutil.copytree(whole.folder / "gad_reference", folder / "gad_reference")
    shutil.copytree(whole.folder / f"global_step_{KILLED_AFTER}", folder / f"global_step_{KILLED_AFTER}")
    (folder / "latest_checkpointed_iteration.txt").write_text(str(KILLED_AFTER))

    resumed = run_on_cpu(folder, inputs)

    assert list(resumed.steps) == list(range(KILLED_AFTER + 1, STEPS + 1))
    for step, data in resumed.steps.items():
        expected = whole.steps[step]
        names = ["training/gad_stage", "critic/d_loss", "critic/d_acc", "critic/grad_norm", "critic/score/mean"]
        if step > WARMUP + ALONE:
            names += ["actor/kl_loss", "actor/grad_norm"]
        for name in names:
            assert data[name] == pytest.approx(expected[name], rel=5e-3, abs=1e-6), f"step {step}: {name}"
    # The prompts' random names order the sums of a step anew, so that the bits may differ; Adam makes that larger.
    for part in ("actor", "critic"):
        begun, ended = whole.weights(part, KILLED_AFTER), whole.weights(part, STEPS)
        other = resumed.weights(part, STEPS)
        assert mean_distance(ended, other) < 0.01 * mean_distance(ended, begun), part


def mean_distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return torch.cat([(one[name] - other[name]).abs().flatten() for name in one]).mean().item()
