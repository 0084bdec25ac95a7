"""Defaults, presets, files and overrides, each over the one before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from messages import names

from gspo.config import Config, ConfigError, load_config
from gspo.config.schema import RewardFunctionConfig
from gspo.config.sources import preset_names
from gspo.shell import gspo_command

ACTOR = "actor_rollout_ref.actor"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(*parts: object, overrides: Sequence[str] = (), path: Path | None = None, name: str | None = None) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None if path is None else str(path), name, overrides)
    assert names(caught, *parts)


def test_the_defaults_are_verls_but_for_those_the_schema_explains() -> None:
    config = load_config()
    actor, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    assert (actor.policy_loss.loss_mode, actor.loss_agg_mode, actor.ppo_mini_batch_size) == (
        "vanilla",
        "token-mean",
        256,
    )
    assert (actor.clip_ratio, actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio_c) == (0.2, 0.2, 0.2, 3.0)
    assert (actor.optim.lr, actor.optim.weight_decay, actor.optim.clip_grad) == (1e-6, 0.01, 1.0)
    assert (rollout.n, rollout.temperature, rollout.top_p, rollout.top_k) == (1, 1.0, 1.0, -1)
    assert (config.data.max_prompt_length, config.data.max_response_length, config.data.train_batch_size) == (
        512,
        512,
        1024,
    )
    assert (config.algorithm.adv_estimator, config.algorithm.gamma, config.algorithm.lam) == ("grpo", 1.0, 1.0)
    assert config.trainer.default_local_dir == "runs/gspo/vanilla"
    assert config.user_set == frozenset()


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_an_override_with_or_without_plus(prefix: str) -> None:
    config = load_config(overrides=[f"{prefix}actor_rollout_ref.rollout.n=4"])
    assert config.actor_rollout_ref.rollout.n == 4
    assert config.user_set == {"actor_rollout_ref.rollout.n"}


@pytest.mark.parametrize("override", [f"{ACTOR}.policy_loss=gspo", f"{ACTOR}.policy_loss.loss_mode=gspo"])
def test_both_spellings_of_the_policy_loss(override: str) -> None:
    assert load_config(overrides=[override]).actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"


def test_ppo_is_vanilla() -> None:
    assert (
        load_config(overrides=[f"{ACTOR}.policy_loss=ppo"]).actor_rollout_ref.actor.policy_loss.loss_mode == "vanilla"
    )


@pytest.mark.parametrize("value", ["[console,wandb]", "['console','wandb']", '["console", "wandb"]'])
def test_lists_as_shells_deliver_them(value: str) -> None:
    assert load_config(overrides=[f"trainer.logger={value}"]).trainer.logger == ["console", "wandb"]


@pytest.mark.parametrize("text", ["1e-6", "'1e-6'", "0.000001", "1.0e-06"])
def test_small_numbers_in_a_file(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a", f"{ACTOR}.optim.lr: {text}")
    assert load_config(str(tmp_path), "a").actor_rollout_ref.actor.optim.lr == 1e-6


@pytest.mark.parametrize(
    ("override", "value"),
    [("trainer.val_only=true", True), ("trainer.val_only=True", True), ("trainer.val_only='True'", True)],
)
def test_truth_in_several_spellings(override: str, value: bool) -> None:
    assert load_config(overrides=[override]).trainer.val_only is value


def test_integers_for_floats_and_whole_floats_for_integers() -> None:
    config = load_config(overrides=["actor_rollout_ref.rollout.temperature=1", "data.train_batch_size=1e3"])
    temperature, batch = config.actor_rollout_ref.rollout.temperature, config.data.train_batch_size
    assert (type(temperature), temperature) == (float, 1.0)
    assert (type(batch), batch) == (int, 1000)


def test_one_file_or_several() -> None:
    assert load_config(overrides=["data.train_files=a.parquet"]).data.train_files == ["a.parquet"]
    assert load_config(overrides=["data.train_files=[a.parquet,b.json]"]).data.train_files == ["a.parquet", "b.json"]


def test_the_last_override_wins_and_a_tilde_goes_back_to_the_default() -> None:
    name = "actor_rollout_ref.rollout.n"
    assert load_config(overrides=[f"{name}=4", f"{name}=8"]).actor_rollout_ref.rollout.n == 8
    config = load_config(None, "gspo_gsm8k", ["~actor_rollout_ref.rollout.n"])
    assert config.actor_rollout_ref.rollout.n == 1
    config = load_config(None, "gspo_gsm8k", ["~actor_rollout_ref", "trainer.seed=3", "~trainer.seed"])
    assert config.actor_rollout_ref == load_config(overrides=["data.train_batch_size=4"]).actor_rollout_ref
    assert config.user_set == frozenset()


def test_free_mappings_merge_entry_by_entry(tmp_path: Path) -> None:
    write(tmp_path, "a", "actor_rollout_ref: {model: {override_config: {layers: 2, rope: {theta: 1, kind: x}}}}")
    key = "actor_rollout_ref.model.override_config"
    config = load_config(str(tmp_path), "a", [f"{key}.rope.theta=5", f"+{key}.heads=4", f"~{key}.layers"])
    assert config.actor_rollout_ref.model.override_config == {"rope": {"theta": 5, "kind": "x"}, "heads": 4}


def test_reward_functions_by_name_or_in_full() -> None:
    config = load_config(overrides=["reward.functions=[gsm8k,{name: length, weight: 0.1, kwargs: {target: 50}}]"])
    assert config.reward.functions == [
        RewardFunctionConfig(name="gsm8k"),
        RewardFunctionConfig(name="length", weight=0.1, kwargs={"target": 50}),
    ]


def test_interpolation_within_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GSPO_TEST_ROOT", "/scratch")
    write(
        tmp_path,
        "a",
        "trainer: {project_name: p, default_local_dir: '${oc.env:GSPO_TEST_ROOT}/${trainer.project_name}'}",
    )
    config = load_config(
        str(tmp_path), "a", ["data.max_response_length=${data.max_prompt_length}", "data.max_prompt_length=9"]
    )
    assert config.trainer.default_local_dir == "/scratch/p"
    assert config.data.max_response_length == 9


def test_defaults_stand_below_the_file_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, "base", "defaults: [gspo_gsm8k]\ntrainer: {seed: 5, total_epochs: 3}\ndata.val_max_samples: 7")
    write(tmp_path, "top", "defaults: [base, _self_]\ntrainer.seed: 6")
    config = load_config(str(tmp_path), "top")
    assert config.actor_rollout_ref.actor.policy_loss.loss_mode == "gspo"
    assert (config.trainer.seed, config.trainer.total_epochs, config.data.val_max_samples) == (6, 3, 7)
    assert config.user_set == {"trainer.seed", "trainer.total_epochs", "data.val_max_samples"}
    write(tmp_path, "under", "defaults: [_self_, base]\ntrainer.seed: 6")
    assert load_config(str(tmp_path), "under").trainer.seed == 5


def test_an_empty_file_and_empty_sections_change_nothing(tmp_path: Path) -> None:
    write(tmp_path, "a", "")
    write(tmp_path, "b", "critic:\nactor_rollout_ref:\n  actor: {}\ndata:\n  train_files: ???\n")
    assert load_config(str(tmp_path), "a") == load_config() == load_config(str(tmp_path), "b")


def test_every_preset_loads() -> None:
    assert {"gad_gspo_config", "gspo_gsm8k", "gspo_reasoning", "ppo_config"} <= set(preset_names())
    for name in preset_names():
        assert isinstance(load_config(None, name), Config)


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "algorithm.gama=1",
            ["unknown key algorithm.gama", "did you mean algorithm.gamma or algorithm.lam?"],
        ),
        (
            "rollout.n=8",
            ["unknown key rollout.n", "actor_rollout_ref.rollout.n or actor_rollout_ref.rollout.val_kwargs.n?"],
        ),
        ("zzz=1", ["unknown key zzz", f"`{gspo_command('config')}`"]),
        ("data.shuffle=3", ["int", "expected bool"]),
        (
            "data.train_batch_size=8.5",
            ["float", "expected int"],
        ),
        (
            f"{ACTOR}.grad_clip=high",
            [f"{ACTOR}.optim.clip_grad=high", "expected float"],
        ),
        ("trainer=3", ["expected a mapping"]),
        (
            "data.val_files={a: 1}",
            ["dict", "expected list of str"],
        ),
        (
            "custom_reward_function.reward_kwargs=3",
            ["int", "expected mapping"],
        ),
        (
            "reward.functions=[{name: a, wight: 2}]",
            ["reward.functions[0]", "wight", "name, weight, kwargs"],
        ),
        (
            "reward.functions=[{weight: 2}]",
            ["reward.functions", "name", "{name: gsm8k, weight: 1.0}"],
        ),
        (
            "reward.functions=[[1]]",
            ["reward.functions[0]=[1]", "list", "{name, weight, kwargs}"],
        ),
        (
            "trainer.seed=${foo.bar}",
            ["trainer.seed", "'foo.bar' not found"],
        ),
        (
            "data.train_batch_size=1,2",
            ["several values", "data.train_batch_size=[1,2]"],
        ),
        ("+trainer@x=3", ["config groups (@)", "write the full key"]),
        ("~trainer.seed=3", ["write ~trainer.seed without"]),
        (
            "~trainer.sede",
            ["unknown key trainer.sede", "did you mean trainer.seed?"],
        ),
    ],
)
def test_what_a_bad_override_says(override: str, parts: list[str]) -> None:
    refused(override, *parts, overrides=[override])


def test_what_an_override_that_is_none_says() -> None:
    with pytest.raises(ConfigError, match=r"cannot read the override data\.train_files: .*Write key=value"):
        load_config(overrides=["data.train_files"])


def test_two_spellings_that_differ(tmp_path: Path) -> None:
    path = write(tmp_path, "a", "actor_rollout_ref: {ppo_epochs: 1, actor: {ppo_epochs: 2}}")
    refused(
        f"{ACTOR}.ppo_epochs=2 ({path})",
        f"actor_rollout_ref.ppo_epochs=1 ({path})",
        "two spellings",
        "keep one",
        path=tmp_path,
        name="a",
    )
    write(tmp_path, "b", "actor_rollout_ref: {ppo_epochs: 2, actor: {ppo_epochs: 2}}")
    assert load_config(str(tmp_path), "b").actor_rollout_ref.actor.ppo_epochs == 2


def test_an_override_in_one_spelling_beats_a_file_in_the_other(tmp_path: Path) -> None:
    write(tmp_path, "a", "actor_rollout_ref.ppo_epochs: 1")
    assert load_config(str(tmp_path), "a", [f"{ACTOR}.ppo_epochs=3"]).actor_rollout_ref.actor.ppo_epochs == 3


def test_what_a_bad_file_says(tmp_path: Path) -> None:
    path = write(tmp_path, "unknown", "algorithm:\n  adv_estimtor: grpo")
    refused(
        "unknown key algorithm.adv_estimtor",
        path,
        "did you mean algorithm.adv_estimator?",
        path=tmp_path,
        name="unknown",
    )
    path = write(tmp_path, "list", "- a\n- b")
    refused(path, "must hold a mapping", path=tmp_path, name="list")
    path = write(tmp_path, "text", "0.5")
    refused(path, "must hold a mapping", path=tmp_path, name="text")
    path = write(tmp_path, "groups", "defaults: [{algorithm: x}]")
    refused(
        path,
        "`defaults: [gspo_gsm8k]`",
        "Hydra's config groups",
        path=tmp_path,
        name="groups",
    )
    path = write(tmp_path, "circle", "defaults: [circle]")
    refused(path, "circle -> circle", path=tmp_path, name="circle")
    for name, text in {"broken": "a: [1", "twice": "data: {seed: 1, seed: 2}"}.items():
        write(tmp_path, name, text)
        with pytest.raises(ConfigError, match=rf"{name}\.yaml is not YAML that can be read: "):
            load_config(str(tmp_path), name)


def test_what_a_missing_file_says(tmp_path: Path) -> None:
    presets = ", ".join(preset_names())
    refused(
        f"{tmp_path}/nope.yaml does not exist",
        "no preset is called nope",
        presets,
        path=tmp_path,
        name="nope",
    )
    refused("--config-path", "no preset is called nope", presets, name="nope")
    path = write(tmp_path, "a", "defaults: [nope]")
    refused(
        f"{path}: defaults: {tmp_path}/nope.yaml does not exist",
        presets,
        path=tmp_path,
        name="a",
    )
    refused("--config-path somewhere", "needs --config-name", path=Path("somewhere"))
