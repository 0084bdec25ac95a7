"""Every name of verl that the plugin uses is there, with the parameters that it is called with."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gspo.integrations.verl import plugin

BASE = "verl.trainer.ppo.v1.trainer_base.PPOTrainer"
WORKER = "verl.workers.engine_workers.TrainingWorker"
ACTOR = "verl.workers.engine_workers.ActorRolloutRefWorker"
# dotted name -> parameters that are given to it or that it is overridden with; None: the name alone.
USED: dict[str, list[str] | None] = {
    "verl.trainer.ppo.v1.trainer_base.register_trainer": ["name"],
    "verl.trainer.ppo.v1.trainer_base.get_trainer_cls": ["name"],
    "verl.trainer.ppo.v1.trainer_sync.PPOTrainerSync": ["config"],
    f"{BASE}._setup": [],
    f"{BASE}._init_dataloader": [],
    f"{BASE}._init_resource_pool_mgr": [],
    f"{BASE}._compute_values": ["batch", "metrics"],
    f"{BASE}._update_critic": ["batch", "metrics"],
    f"{BASE}._update_actor": ["batch", "metrics"],
    f"{BASE}._compute_metrics": ["batch", "metrics", "timing_raw", "global_steps", "epoch"],
    f"{WORKER}.set_loss_fn": ["loss_fn"],
    f"{WORKER}.infer_batch": ["data"],
    f"{WORKER}.train_batch": ["data"],
    f"{ACTOR}.update_actor": ["data"],
    f"{ACTOR}.init_model": [],
    "verl.workers.utils.losses.sft_loss": ["config", "model_output", "data", "dp_group"],
    "verl.workers.utils.losses.value_loss": ["config", "model_output", "data", "dp_group"],
    "verl.single_controller.base.decorator.register": ["dispatch_mode"],
    "verl.single_controller.base.decorator.Dispatch.ONE_TO_ALL": None,
    "verl.single_controller.base.worker.Worker._query_dispatch_info": ["mesh_name"],
    "verl.protocol.DataProtoFuture.get": [],
    "verl.utils.tensordict_utils.get": ["tensordict", "key"],
    "verl.utils.tensordict_utils.assign_non_tensor": ["tensor_dict"],
    "verl.utils.seqlen_balancing.calculate_workload": ["seqlen_list"],
    "verl.utils.seqlen_balancing.get_seqlen_balanced_partitions": ["seqlen_list", "k_partitions", "equal_size"],
    "verl.utils.dataset.rl_dataset.RLHFDataset.__getitem__": ["item"],
    "verl.workers.config.PolicyLossConfig": ["loss_mode"],
    "transfer_queue.kv_batch_get": ["keys", "partition_id", "select_fields"],
    "transfer_queue.kv_batch_put": ["keys", "partition_id", "fields"],
    "transfer_queue.KVBatchMeta": ["keys", "tags", "partition_id"],
}


def found(name: str) -> Any:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            value = getattr(value, part)
        return value
    raise ModuleNotFoundError(name)


@pytest.mark.parametrize("name", USED)
def test_the_name_is_there_with_its_parameters(name: str) -> None:
    value, wanted = found(name), USED[name]
    if wanted is not None:
        parameters = inspect.signature(value).parameters
        assert [parameter for parameter in wanted if parameter not in parameters] == [], f"{name}({parameters})"


def test_what_the_step_calls_is_in_the_order_that_the_plugin_counts_on() -> None:
    text = inspect.getsource(found(f"{BASE}._step_once"))
    calls = ["_compute_old_log_prob", "_compute_values", "_compute_advantage", "_update_critic", "_update_actor"]
    places = [text.index(f"self.{call}(") for call in calls]
    assert places == sorted(places)
    assert "self.config.trainer.critic_warmup <= self.global_steps" in text


def test_the_checkpoint_of_a_step_is_written_behind_its_updates() -> None:
    text = inspect.getsource(found(f"{BASE}.fit"))
    assert text.index("self.step(") < text.index("self._save_checkpoint()") < text.index("self._compute_metrics(")


def test_verl_loads_the_plugin_and_knows_the_trainer() -> None:
    trainers = found("verl.trainer.ppo.v1")  # behind which the plugin registers its own
    assert trainers.get_trainer_cls("gad").__module__ == "gspo.integrations.verl.trainer"
    assert "gspo.integrations.verl.plugin" in sys.modules


def test_a_verl_without_a_name_gives_one_line_with_the_versions_that_have_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "gspo.integrations.verl.trainer")
    monkeypatch.setitem(sys.modules, "verl.trainer.ppo.v1.trainer_sync", None)
    with caplog.at_level(logging.WARNING, logger="gspo"):
        assert plugin.load_trainer() is False
    (record,) = caplog.records
    message = record.getMessage()
    assert "\n" not in message
    for word in ("trainer_mode=gad", plugin.VERSIONS, "trainer_sync", "pip install 'gspo[verl]'"):
        assert word in message


def test_the_versions_are_those_of_the_extra() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["optional-dependencies"]["verl"] == [plugin.VERSIONS.replace("verl", "verl[verl-core]", 1)]
    assert project["entry-points"]["verl.plugins"] == {"gspo": "gspo.integrations.verl.plugin"}
