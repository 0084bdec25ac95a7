"""verl's whole configurations and its example scripts, and files over them."""

from __future__ import annotations

import ast
import pprint
from pathlib import Path

import pytest
import yaml
from messages import names
from omegaconf import OmegaConf

from gspo.config import ConfigError, load_config, notices, require_supported
from gspo.config.schema import to_dict
from gspo.config.settings import known_keys

ACTOR, ROLLOUT, MODEL = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.model"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLE = (
    "cispo_trainer/run_qwen3_8b_fsdp.sh",
    "grpo_trainer/run_hy_v3_megatron.sh",
    "grpo_trainer/run_deepseek_v4_veomni.sh",
    "mtp_trainer/run_mimo_7b_mtp_fully_async_megatron_multinode.sh",
    "remax_trainer/run_qwen3_8b_fsdp.sh",
    "tuning/lora/run_qwen3_8b_fsdp.sh",
)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_the_preset_of_verls_name_is_its_configuration(tmp_path: Path) -> None:
    """All that trains is as in verl's defaults; what differs says where things go, or how fast they are."""
    from verl_scripts import whole_configuration

    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(whole_configuration()))
    own = ("trainer.project_name", "trainer.experiment_name", "trainer.default_local_dir", "trainer.logger")
    speed = (f"{MODEL}.use_fused_kernels", "reward.num_workers", "trainer.log_val_generations")
    # null here decides by the first batch; reward and score are one
    same = ("algorithm.rollout_correction.bypass_mode", "algorithm.filter_groups.metric")
    files = ("data.train_files", "data.val_files")
    trees = [
        OmegaConf.create(to_dict(load_config(*names))) for names in ((str(tmp_path), "whole"), (None, "ppo_trainer"))
    ]
    theirs, ours = ({key: OmegaConf.select(tree, key) for key in known_keys()} for tree in trees)
    assert {key for key in ours if ours[key] != theirs[key]} == {*own, *speed, *same, *files}
    assert load_config(None, "ppo_megatron_trainer.yaml") == load_config(None, "ppo_trainer")


def test_a_file_over_verls_configuration(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "hydra: {searchpath: ['file://verl/trainer/config']}\n"
        "defaults: [ppo_trainer, _self_]\n"
        "algorithm: {adv_estimator: grpo}\n"
    )
    config = load_config(str(tmp_path), "mine")
    assert (config.algorithm.adv_estimator, config.trainer.total_epochs) == ("grpo", 30)
    (tmp_path / "groups.yaml").write_text("defaults: [{actor@actor_rollout_ref.actor: dp_actor}, _self_]\n")
    with pytest.raises(ConfigError) as caught:
        load_config(str(tmp_path), "groups")
    assert names(caught, "groups.yaml", "config groups are not read", "_generated_ppo_trainer.yaml")


# --- whole configurations


@pytest.mark.parametrize("kind", ["its file", "resolved", "as it is printed"])
def test_verls_default_configuration(tmp_path: Path, kind: str) -> None:
    from verl_scripts import whole_configuration

    tree = whole_configuration()
    if kind != "its file":
        tree = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    text = pprint.pformat(tree) if kind == "as it is printed" else yaml.safe_dump(tree)
    if kind == "as it is printed":
        assert ast.literal_eval(text) == tree
    (tmp_path / "whole.yaml").write_text(text)
    config = load_config(str(tmp_path), "whole", [f"{MODEL}.path=m", "data.train_files=a", "data.val_files=b"])
    require_supported(config)
    trainer, actor = config.trainer, config.actor
    assert (trainer.device, trainer.nnodes, trainer.n_gpus_per_node, trainer.total_epochs) == ("auto", 1, 1, 30)
    assert trainer.default_local_dir == "checkpoints/verl_examples/gsm8k"
    assert (config.algorithm.adv_estimator, config.critic.enable, config.critic.model.path) == ("gae", True, None)
    assert (actor.policy_loss.loss_mode, actor.clip_ratio, actor.loss_agg_mode) == ("vanilla", 0.2, "token-mean")
    assert (actor.ppo_mini_batch_size, config.critic.ppo_mini_batch_size, config.data.train_batch_size) == (
        256,
        256,
        1024,
    )
    assert (config.critic.loss_agg_mode, config.custom_reward_function.name) == ("token-mean", "compute_score")
    said = [line for line in notices(config) if "no effect here" in line]
    assert len(said) == 4
    assert sum(int(line.split()[0]) for line in said) > 150


def test_null_in_a_file_of_verls_is_not_set(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("critic.optim.min_lr_ratio: null\n")
    with pytest.raises(ConfigError, match=r"critic\.optim\.min_lr_ratio=null is of type NoneType: expected float"):
        load_config(str(tmp_path), "a")
    (tmp_path / "a.yaml").write_text("critic.optim.min_lr_ratio: null\ncritic.load_weight: True\n")
    assert load_config(str(tmp_path), "a").critic.optim.min_lr_ratio == 0.0


def test_what_lies_over_a_resolved_configuration_counts(tmp_path: Path) -> None:
    """It repeats the group's size and the lengths under other keys, which are copies and ask for nothing."""
    from verl_scripts import whole_configuration

    tree = OmegaConf.to_container(OmegaConf.create(whole_configuration()), resolve=True)
    (tmp_path / "whole.yaml").write_text(yaml.safe_dump(tree))
    over = [
        "algorithm.adv_estimator=grpo",
        f"{ROLLOUT}.n=8",
        "data.max_response_length=64",
        "data.max_prompt_length=32",
    ]
    config = load_config(str(tmp_path), "whole", over)
    assert config.refused == ()
    assert (config.rollout.n, config.data.max_response_length) == (8, 64)
    assert not any("critic.optim" in line for line in notices(config))  # at their defaults they ask for nothing
    both = [f"{ROLLOUT}.response_length=64", "data.max_response_length=64"]
    assert load_config(str(tmp_path), "whole", both).refused == ()
    (one,) = load_config(str(tmp_path), "whole", [f"{ROLLOUT}.response_length=64"]).refused
    assert one.key == f"{ROLLOUT}.response_length"
    (tmp_path / "mine.yaml").write_text(f"{ROLLOUT}.response_length: 64\n")
    (one,) = load_config(str(tmp_path), "mine").refused
    assert one.setting.endswith("response_length=64 (" + str(tmp_path / "mine.yaml") + ")")


def test_where_a_file_has_two_spellings_verls_default_gives_way(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "actor_rollout_ref.actor.grad_clip: 1.0\n"
        "actor_rollout_ref.actor.optim: {clip_grad: 0.3, warmup_style: null, lr_scheduler_type: cosine}\n"
        "custom_reward_function: {path: null, name: null}\n"
        "reward: {custom_reward_function: {path: own.py, name: judge}}\n"
    )
    config = load_config(str(tmp_path), "a")
    assert (config.actor.optim.clip_grad, config.actor.optim.lr_scheduler_type) == (0.3, "cosine")
    assert (config.custom_reward_function.path, config.custom_reward_function.name) == ("own.py", "judge")
    assert load_config(str(tmp_path), "a", [f"{ACTOR}.grad_clip=0.7"]).actor.optim.clip_grad == 0.7


def test_what_a_key_refers_to_is_found_where_it_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "critic: {ppo_max_token_len_per_gpu: 99, forward_max_token_len_per_gpu: '${.ppo_max_token_len_per_gpu}'}\n"
        "actor_rollout_ref:\n"
        "  ppo_epochs: 3\n"
        "  actor: {tau_neg: '${.tau_pos}', tau_pos: 2.5}\n"
        "  ref: {megatron: {override_transformer_config: '${oc.select:actor_rollout_ref.no,{}}'}}\n"
        "  rollout: {multi_turn: {tool_config_path: null}}\n"
        "trainer: {project_name: p, experiment_name: 'e${actor_rollout_ref.ppo_epochs}'}\n"
        "data: {tool_config_path: '${oc.select:actor_rollout_ref.rollout.multi_turn.tool_config_path, null}'}\n"
    )
    config = load_config(str(tmp_path), "a")
    assert (config.actor.policy_loss.tau_neg, config.trainer.experiment_name) == (2.5, "e3")
    assert config.refused == ()
    tools = load_config(str(tmp_path), "a", [f"{ROLLOUT}.multi_turn.tool_config_path=t.yaml"])
    assert {one.key for one in tools.refused} == {f"{ROLLOUT}.multi_turn.tool_config_path", "data.tool_config_path"}


# --- scripts


@pytest.mark.parametrize("script", SAMPLE)
def test_a_script_of_verls_loads(script: str) -> None:
    from verl_scripts import judge, scripts

    verdict = judge(script)
    assert verdict.config is not None
    said = [line for line in notices(verdict.config) if "no effect here" in line]
    assert 1 <= len(said) <= 4
    assert verdict.config.trainer.project_name
    assert len(scripts()[script]) > 40


def test_the_verdicts_of_the_sample() -> None:
    from verl_scripts import judge, table

    verdicts = [judge(script) for script in SAMPLE]
    settings = [[line.partition(": ")[0] for line in verdict.refused] for verdict in verdicts]
    assert settings == [
        [],
        [],
        [f"{ACTOR}.veomni.router_replay.mode=R3", f"{ROLLOUT}.enable_rollout_routing_replay=true"],
        [
            "data.train_batch_size=0",
            "actor_rollout_ref.hybrid_engine=false",
            f"{MODEL}.mtp.enable_train=true",
            "data.gen_batch_size=1",
        ],
        ["algorithm.adv_estimator=remax"],
        [f"{MODEL}.lora_rank=32"],
    ]
    made = table(verdicts)
    assert made.startswith("6 of 6 scripts load, 2 of them train.\n")
    assert f"| `{SAMPLE[5]}` | no | `{MODEL}.lora_rank=32` |" in made
    assert f"| `{MODEL}.lora_rank=32` | adapters (LoRA) are not trained: take it out to train all weights |" in made
