"""The section gad, the stages that it asks for, and the configurations that GAD cannot run with."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from gspo.integrations.verl.callback import with_policy_loss_section
from gspo.integrations.verl.settings import GadSettings, check_config, stages_of
from gspo.trainer.gad.schedule import Stage


def config(**changes: Any) -> DictConfig:
    base = OmegaConf.create(
        {
            "gad": {},
            "algorithm": {"adv_estimator": "grpo", "use_kl_in_reward": False},
            "critic": {"enable": True},
            "actor_rollout_ref": {
                "actor": {"strategy": "fsdp2", "use_kl_loss": True},
                "model": {"path": "m", "lora_rank": 0, "lora_adapter_path": None},
            },
        }
    )
    for key, value in changes.items():
        OmegaConf.update(base, key, value)
    return base


def test_stages_are_the_warmup_then_the_discriminator_alone_then_the_rest() -> None:
    stages = stages_of(GadSettings(warmup_epochs=2), critic_warmup=3, steps_per_epoch=5)
    assert [stages.at(step) for step in (1, 10, 11, 13, 14)] == [
        Stage.WARMUP,
        Stage.WARMUP,
        Stage.DISCRIMINATOR,
        Stage.DISCRIMINATOR,
        Stage.ADVERSARIAL,
    ]
    assert stages_of(GadSettings(warmup_epochs=2, warmup_steps=1), 0, 5).at(2) is Stage.ADVERSARIAL


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gad": {"warm": 1}}, ["gad.warm", "warmup_epochs"]),
        ({"gad.temperature": 0.0}, ["gad.temperature", "positive"]),
        ({"gad.label_smoothing": 0.5}, ["gad.label_smoothing", "0.5"]),
        ({"gad.warmup_steps": -1}, ["gad.warmup_steps"]),
        ({"critic.enable": None}, ["critic.enable", "true"]),
        ({"algorithm.adv_estimator": "gae"}, ["adv_estimator=gae", "grpo"]),
        ({"trainer": {"use_v1": False}}, ["trainer.use_v1"]),
        ({"algorithm.filter_groups": {"enable": True}}, ["algorithm.filter_groups.enable=false"]),
        ({"actor_rollout_ref.model.path": None}, ["actor_rollout_ref.model.path"]),
        ({"gad.warmup_steps": 3, "actor_rollout_ref.model.lora_rank": 8}, ["use_kl_loss=false", "adapter"]),
        ({"gad.warmup_steps": 3, "actor_rollout_ref.actor.strategy": "megatron"}, ["strategy=megatron", "use_kl_loss"]),
    ],
)
def test_what_stands_in_the_way_is_named(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError, match=r"\w") as raised:
        check_config(config(**changes))
    assert [word for word in words if word not in str(raised.value)] == []


def test_without_a_warmup_any_strategy_and_an_adapter_will_do() -> None:
    found = check_config(
        config(**{"actor_rollout_ref.model.lora_rank": 8, "actor_rollout_ref.actor.strategy": "megatron"})
    )
    assert found == GadSettings()


def test_a_loss_named_as_the_guide_names_it_becomes_verls_section() -> None:
    composed = OmegaConf.create({"actor_rollout_ref": {"actor": {"policy_loss": "gspo"}}})
    OmegaConf.set_struct(composed, True)
    with_policy_loss_section(composed)
    section = {"_target_": "verl.workers.config.PolicyLossConfig", "loss_mode": "gspo"}
    assert composed.actor_rollout_ref.actor.policy_loss == section
    with_policy_loss_section(composed)
    assert composed.actor_rollout_ref.actor.policy_loss == section
