"""verl's keys: what is honoured, what has no effect, and what is refused, all at once."""

from __future__ import annotations

from typing import Any

import pytest
from messages import names
from omegaconf import OmegaConf

from gspo.config import Config, ConfigError, load_config, notices, require_supported
from gspo.config.schema import to_dict
from gspo.config.settings import known_keys, section_keys
from gspo.config.verl_keys import TOPICS, rows, table
from gspo.methods import ADVANTAGES, ENGINES, LOSSES

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
QUIET = [f"{ROLLOUT}.n=8"]


def loaded(*overrides: str) -> Config:
    return load_config(overrides=[*QUIET, *overrides])


def refused(*overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        require_supported(loaded(*overrides))
    return caught.value


# --- the table


def test_every_row_of_the_table_is_about_keys_that_exist() -> None:
    for row in rows():
        keys = list(row.names())
        if row.kind == "is":
            for key in keys:
                target = table().moved[key]
                assert key not in known_keys()
                assert target in known_keys(), f"{key} is {target}"
        elif row.kind in ("value", "unset"):
            assert set(keys) <= known_keys().keys(), row.pattern
        else:
            assert row.kind in ("none", "refused"), row.kind
            assert not set(keys) & (known_keys().keys() | section_keys()), row.pattern
            assert row.reason
            assert (row.argument in TOPICS) == (row.kind == "none")
        for part in row.argument.split(", "):
            if part.startswith(("= ", "if ")):
                assert part.partition(" ")[2] in known_keys()


def test_no_key_is_in_two_rows() -> None:
    keys = [key for row in rows() if row.kind != "value" for key in row.names()]
    assert sorted(keys) == sorted(set(keys))


def test_what_is_refused_as_a_value_is_not_here() -> None:
    values = table().values
    assert not set(values["algorithm.adv_estimator"].values()) & ADVANTAGES.keys()
    losses = {name for loss in LOSSES.values() for name in (loss.name, *loss.aliases)}
    assert not set(values[f"{ACTOR}.policy_loss.loss_mode"].values()) & losses


# --- honoured


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["reward_model.overlong_buffer.enable=True"], "reward.overlong_buffer.enable", True),
        (["reward_model.overlong_buffer.len=4"], "reward.overlong_buffer.len", 4),
        (["+reward_model.reward_kwargs.overlong_buffer_cfg.len=4"], "reward.overlong_buffer.len", 4),
        (["++reward.reward_kwargs.overlong_buffer_cfg={len: 4, log: False}"], "reward.overlong_buffer.len", 4),
        (["reward_model.num_workers=3"], "reward.num_workers", 3),
        (["reward_model.num_workers=null"], "reward.num_workers", 2),
        (["custom_reward_function.name=null"], "custom_reward_function.name", "compute_score"),
        (["reward.custom_reward_function.reward_kwargs.x=1"], "custom_reward_function.reward_kwargs", {"x": 1}),
        ([f"{ACTOR}.tau_pos=2"], f"{ACTOR}.policy_loss.tau_pos", 2.0),
        ([f"{ACTOR}.optim.warmup_style=cosine"], f"{ACTOR}.optim.lr_scheduler_type", "cosine"),
        ([f"{ACTOR}.optim.lr_decay_style=linear"], f"{ACTOR}.optim.lr_scheduler_type", "linear"),
        ([f"{ACTOR}.optim.override_optimizer_config.eps=1e-6"], f"{ACTOR}.optim.eps", 1e-6),
        (
            [f"{MODEL}.override_config={{model_config: {{a: 1}}, moe_config: {{freeze_moe_router: False}}, b: 2}}"],
            f"{MODEL}.override_config",
            {"a": 1, "b": 2},
        ),
        (["critic.grad_clip=0.5"], "critic.optim.clip_grad", 0.5),
        ([f"{MODEL}.custom_chat_template='{{{{ messages }}}}'"], f"{MODEL}.chat_template", "{{ messages }}"),
        ([f"{MODEL}.path='~/models/deepseek-llm-7b-chat'"], f"{MODEL}.path", None),
        (["trainer.logger=['console','file','mlflow']"], "trainer.logger", ["console", "jsonl"]),
        (["algorithm.filter_groups.metric=reward"], "algorithm.filter_groups.metric", "reward"),
        ([f"{ACTOR}.use_dynamic_bsz=False"], f"{ACTOR}.use_dynamic_bsz", True),
        ([f"{ROLLOUT}.name=vllm"], f"{ROLLOUT}.name", "local"),
        ([f"{ROLLOUT}.name=hf"], f"{ROLLOUT}.name", "local"),
        (["trainer.n_gpus_per_node=8"], "trainer.n_gpus_per_node", 1),
        (["trainer.nnodes=2"], "trainer.nnodes", 1),
        (["data.train_batch_size=8", f"{ACTOR}.ppo_mini_batch_size=256"], f"{ACTOR}.ppo_mini_batch_size", 8),
        (["data.train_batch_size=8", "critic.ppo_mini_batch_size=256"], "critic.ppo_mini_batch_size", 8),
        (["trainer.experiment_name=${now:%Y}-${oc.env:HOME}", "~trainer.experiment_name"], "trainer.seed", 1),
        (["trainer.save_freq=${oc.select:no.such.key,7}"], "trainer.save_freq", 7),
    ],
)
def test_a_setting_of_verls_is_honoured(overrides: list[str], key: str, value: Any) -> None:
    config = loaded(*overrides)
    assert OmegaConf.select(OmegaConf.create(to_dict(config)), key) == value
    assert config.refused == ()


@pytest.mark.parametrize(
    ("override", "key", "remedy"),
    [
        (f"{ROLLOUT}.name=vllm", f"{ROLLOUT}.name=vllm", "the local engine samples"),
        ("trainer.n_gpus_per_node=8", "trainer.n_gpus_per_node=8", "one process"),
        ("trainer.logger=[console,mlflow]", "mlflow", "metrics.jsonl"),
        ("data.train_batch_size=8", f"{ACTOR}.ppo_mini_batch_size=64", "8 are taken"),
    ],
)
def test_a_run_says_once_what_it_does_in_place_of_what_was_asked(override: str, key: str, remedy: str) -> None:
    said = notices(loaded(f"{ACTOR}.ppo_mini_batch_size=64", override))
    assert len([line for line in said if key in line and remedy in line]) == 1


def test_an_engine_of_that_name_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo.config.verl.ENGINES", {*ENGINES, "vllm"})
    config = loaded(f"{ROLLOUT}.name=vllm")
    assert config.rollout.name == "vllm"
    assert not any("local engine" in line for line in notices(config))


def test_an_advantage_of_that_name_is_used_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ADVANTAGES, "remax", ADVANTAGES["grpo"])
    require_supported(loaded("algorithm.adv_estimator=remax"))


def test_wandb_that_is_not_installed_stops_no_configuration_of_verls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gspo.config.verl.find_spec", lambda _: None)
    default = "trainer.logger=['console','wandb']"
    config = loaded(default, "trainer.balance_batch=True")
    assert config.trainer.logger == ["console"]
    assert any("wandb, which is not installed" in line for line in notices(config))
    assert loaded(default).trainer.logger == ["console", "wandb"]  # asked for here, where it is no default
    monkeypatch.setattr("gspo.config.verl.find_spec", lambda _: object())
    assert loaded(default, "trainer.balance_batch=True").trainer.logger == ["console", "wandb"]


# --- without effect


def test_keys_without_effect_are_said_by_topic() -> None:
    memory = [f"{ACTOR}.fsdp_config.param_offload=True", f"{ACTOR}.strategy=fsdp2", "critic.fsdp.param_offload=False"]
    engine = [f"{ROLLOUT}.gpu_memory_utilization=0.6"]
    off = [f"{MODEL}.lora_alpha=32", f"{MODEL}.lora_rank=0", f"{ACTOR}.optim._target_=verl.workers.config.Any"]
    said = notices(loaded(*memory, *engine, *off))
    assert len(said) == 2
    assert said[0].startswith(f"3 keys of sharding and memory have no effect here ({ACTOR}.fsdp_config.param_offload, ")
    assert said[1].startswith(f"key {ROLLOUT}.gpu_memory_utilization has no effect here: the local engine samples")


def test_keys_of_a_topic_with_one_reason_are_said_with_it() -> None:
    (line,) = notices(loaded("ray_kwargs.ray_init.num_cpus=8", "ray_kwargs.timeline_json_file=null"))
    assert line.endswith("there is no Ray: the loop runs in one process")


def test_a_key_that_is_taken_out_again_is_not_said() -> None:
    assert notices(loaded("trainer.balance_batch=True", "~trainer.balance_batch")) == []
    assert loaded(f"{MODEL}.lora_rank=8", f"~{MODEL}.lora_rank").refused == ()


# --- refused


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("reward_model.enable=True", ["reward_model.enable=true", "custom_reward_function.path"]),
        (f"{MODEL}.lora_rank=8", [f"{MODEL}.lora_rank=8", "LoRA", "take it out"]),
        (f"+{MODEL}.lora.rank=8", [f"{MODEL}.lora.rank=8", "LoRA"]),
        (f"{ROLLOUT}.multi_turn.enable=True", ["multi_turn.enable=true", "one turn"]),
        (f"{ROLLOUT}.response_length=64", [f"{ROLLOUT}.response_length=64", "set data.max_response_length"]),
        ("reward_model.reward_kwargs.max_resp_len=7", ["max_resp_len=7", "data.max_response_length"]),
        ("reward.reward_kwargs.other=7", ["reward.reward_kwargs.other=7", "custom_reward_function.reward_kwargs"]),
        ("algorithm.adv_estimator=remax", ["algorithm.adv_estimator=remax", "rloo"]),
        (f"{ACTOR}.policy_loss={{loss_mode: clip_cov}}", ["loss_mode=clip_cov", "vanilla"]),
        (f"{ACTOR}.policy_loss=gpg", ["loss_mode=gpg", "vanilla"]),
        ("data.truncation=middle", ["data.truncation=middle", "set left or right"]),
        ("data.train_batch_size=0", ["data.train_batch_size=0", "set the prompts of a step"]),
        ("trainer.device=npu", ["trainer.device=npu", "cpu or cuda"]),
        (
            f"{ACTOR}.optim.override_optimizer_config.momentum=0.9",
            ["momentum=0.9", "the optimizer has no such setting"],
        ),
        (f"{ACTOR}.optim.optimizer=SGD", ["optimizer=SGD", "AdamW"]),
        (f"{ACTOR}.megatron.override_transformer_config.moe_aux_loss_coeff=0.01", ["moe_aux_loss_coeff=0.01"]),
        (f"{ACTOR}.veomni.router_replay.mode=R3", ["router_replay.mode=R3", "routing is not replayed"]),
        (f"{ACTOR}._target_=mine.Actor", ["_target_=mine.Actor", "take it out"]),
        ("distillation.enabled=True", ["distillation.enabled=true", "gspo sft"]),
        ("data.gen_batch_size=1536", ["data.gen_batch_size=1536", "algorithm.filter_groups.enable"]),
        (f"{MODEL}.override_config.moe_config.freeze_moe_router=true", ["freeze_moe_router=true", "take it out"]),
        ("reward_model.reward_manager=batch", ["reward_manager=batch", "a function of one response"]),
        ("reward_model.sandbox_fusion.url=http://x", ["sandbox_fusion.url=http://x"]),
        ("sandbox_fusion.url=http://x", ["sandbox_fusion.url=http://x", "custom_reward_function.path"]),
    ],
)
def test_what_would_change_a_run_is_refused_when_it_starts(override: str, parts: list[str]) -> None:
    error = refused(override)
    assert names(error, *parts)
    assert str(error).count("\n") == 0
    assert any(line.startswith("a run does not start: ") and parts[0] in line for line in notices(loaded(override)))


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["algorithm.rollout_correction={bypass_mode: true, rollout_is: token}"],
            ["algorithm.rollout_correction.bypass_mode=true", "nothing to correct", "set it to null"],
        ),
        ([f"{ROLLOUT}.val_kwargs.do_sample=true"], ["val_kwargs.do_sample=true", "val_kwargs.temperature=1.0"]),
    ],
)
def test_what_verl_takes_together_loads_and_is_refused_when_a_run_starts(
    overrides: list[str], parts: list[str]
) -> None:
    error = refused(*overrides)
    assert names(error, *parts)
    assert f"a run does not start: {error}" in notices(loaded(*overrides))


def test_a_lower_clip_range_of_more_than_1_is_none() -> None:
    """verl's scripts of CISPO set 10, which takes the lower bound away."""
    (line,) = [
        line for line in notices(loaded(f"{ACTOR}.policy_loss=cispo", f"{ACTOR}.clip_ratio_low=10")) if "low" in line
    ]
    assert names(line, "low=10", "cispo", "clip_ratio_low below 1")


def test_all_that_is_refused_is_in_one_list() -> None:
    error = refused(
        f"{MODEL}.lora_rank=8",
        "algorithm.adv_estimator=gpg",
        "algorithm.filter_groups.enable=true",
        f"{ROLLOUT}.n=1",
        "reward.overlong_buffer.enable=true",
    )
    first, *lines = str(error).splitlines()
    assert first.startswith("4 settings")
    parts = ("lora_rank=8", "adv_estimator=gpg", "overlong_buffer.len", "filter_groups.enable=true")
    assert all(part in line for part, line in zip(parts, lines, strict=True))


@pytest.mark.parametrize(
    "override",
    [
        "reward_model.enable=False",
        f"{MODEL}.lora_rank=0",
        f"{ROLLOUT}.response_length=512",
        f"{ROLLOUT}.response_length='${{data.max_response_length}}'",
        f"{ROLLOUT}.multi_turn={{enable: False, max_user_turns: null}}",
        f"{ACTOR}.rollout_n=8",
        "data.datagen={path: null, name: null}",
        "data.gen_batch_size=1024",
        "reward.reward_manager.name=dapo",
        f"{ACTOR}.optim.override_optimizer_config=null",
        f"{ACTOR}.optim.optimizer=AdamW",
        f"{ACTOR}.optim.min_lr=0.0",
        f"{ACTOR}.megatron.router_replay.mode=disabled",
        "algorithm.use_pf_ppo=False",
        "algorithm.pf_ppo.reweight_method=pow",
        "trainer.v1.trainer_mode=sync",
        "reward_manager={source: register, name: naive, module: {path: null, name: custom_reward_manager}}",  # 0.7
        "algorithm.rollout_correction.rollout_rs_threshold_lower=null",
        "actor_rollout_ref.ref.model=null",
        "critic.model.override_config={model_config: {}, moe_config: {freeze_moe_router: False}}",  # 0.5
        "actor_rollout_ref.actor.load_weight=True",  # 0.4
        f"{ROLLOUT}.use_fire_sampling=False",
    ],
)
def test_a_value_that_asks_for_nothing_is_never_refused(override: str) -> None:
    assert loaded(override).refused == ()


def test_batches_of_another_size_are_sampled_where_groups_are_filtered() -> None:
    assert loaded("data.gen_batch_size=1536", "algorithm.filter_groups.enable=true").refused == ()


def test_settings_over_a_configuration_take_back_what_is_refused() -> None:
    config = loaded(f"{MODEL}.lora_rank=8", "data.truncation=middle")
    assert {one.key for one in config.refused} == {f"{MODEL}.lora_rank", "data.truncation"}
    again = load_config(settings={f"{MODEL}.lora_rank": 0}, base=config)
    assert [one.key for one in again.refused] == ["data.truncation"]


@pytest.mark.parametrize(
    ("override", "near"),
    [
        (f"{ROLLOUT}.gpu_memory_utilisation=0.5", f"{ROLLOUT}.gpu_memory_utilization"),
        (f"{MODEL}.lora_rnk=8", f"{MODEL}.lora_rank"),
        ("reward_model.overlong_bufer.len=4", "reward_model.overlong_buffer.len"),
        ("trainer.balance_bach=True", "trainer.balance_batch"),
        ("nowhere._target_=verl.Any", None),
    ],
)
def test_a_misspelt_key_of_verls_is_an_error(override: str, near: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(override)
    assert names(caught, "unknown key", *([f"did you mean {near}"] if near else []))
