"""Losses and advantages of the user's own: from a file or the same process, checked before anything runs."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gspo.algorithms import (
    ADV_ESTIMATOR_REGISTRY,
    POLICY_LOSS_REGISTRY,
    register_advantage,
    register_policy_loss,
)
from gspo.config import Config, ConfigError, load_config, load_external, notices, render, require_supported
from gspo.config.schema import (
    ActorConfig,
    ActorRolloutRefConfig,
    AlgorithmConfig,
    CriticConfig,
    PolicyLossConfig,
    RolloutConfig,
)
from gspo.methods import ADVANTAGES, LOSSES, Band
from gspo.observe.report.folder import read_curves
from gspo.observe.report.readings import read_run
from gspo.rewards.functions import REWARD_REGISTRY
from gspo.rollout.engine import ENGINE_REGISTRY
from gspo.trainer import train
from gspo.trainer.records import write_methods

REPOSITORY = Path(__file__).parent.parent
ACTOR = "actor_rollout_ref.actor"
Overrides = Callable[..., list[str]]

FILE = """
from gspo.algorithms import register_advantage, register_policy_loss

@register_policy_loss("mine", sequence_clip=True, clip=(0.002, 0.003), aggregation="seq-mean-token-sum")
def mine(**_): ...

@register_advantage("ours", compares_groups=False, needs_values=True)
def ours(**_): ...
"""


@pytest.fixture
def own_file(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(FILE, encoding="utf-8")
    return f"algorithm.external_modules=[{tmp_path}/own.py]"


def filled(config: Config) -> tuple[Any, ...]:
    actor = config.actor_rollout_ref.actor
    return actor.clip_ratio_low, actor.clip_ratio_high, actor.loss_agg_mode


def test_a_file_brings_its_defaults(own_file: str) -> None:
    config = load_config(overrides=[own_file, f"{ACTOR}.policy_loss=mine"])
    assert filled(config) == (0.002, 0.003, "seq-mean-token-sum")
    assert config.loss_facts.sequence_clip
    given = [f"{ACTOR}.clip_ratio_low=0.004", f"{ACTOR}.loss_agg_mode=token-mean"]
    assert filled(load_config(overrides=[own_file, f"{ACTOR}.policy_loss=mine", *given])) == (
        0.004,
        0.003,
        "token-mean",
    )


def test_an_advantage_that_needs_values_has_a_critic(own_file: str) -> None:
    overrides = [own_file, "algorithm.adv_estimator=ours"]
    config = load_config(overrides=overrides)
    assert (config.uses_value_critic, config.critic.enable, config.wants_discriminator) == (True, True, False)
    assert not any("baseline" in notice for notice in notices(config))  # it does not compare the responses of a prompt
    with pytest.raises(ConfigError, match=r"^algorithm\.adv_estimator=ours needs a critic: set critic\.enable=null"):
        load_config(overrides=[*overrides, "critic.enable=false"])


def test_a_clip_range_is_judged_by_what_the_loss_declares() -> None:
    register_policy_loss("tokens")(lambda: None)
    register_policy_loss("sequences", sequence_clip=True, clip=(0.05, 0.05))(lambda: None)

    def about_the_clip(name: str, *overrides: str) -> list[str]:
        config = load_config(overrides=[f"{ACTOR}.policy_loss={name}", *overrides])
        return [notice for notice in notices(config) if notice.startswith("clip range")]

    narrow, wide = f"{ACTOR}.clip_ratio=3e-4", f"{ACTOR}.clip_ratio=0.3"
    assert about_the_clip("tokens") == about_the_clip("sequences") == []
    assert about_the_clip("tokens", wide) == about_the_clip("sequences", f"{ACTOR}.clip_ratio=0.005") == []
    (notice,) = about_the_clip("sequences", narrow)
    assert notice.endswith(f"far below 0.05 / 0.05. Leave {ACTOR}.clip_ratio* out for those")
    assert about_the_clip("tokens", narrow) == [
        "clip range 0.0003 / 0.0003 with policy_loss=tokens clips almost every token: it is made for sequence ratios. "
        f"Set {ACTOR}.clip_ratio=0.2, or sequence_clip=True where tokens is registered"
    ]
    (notice,) = about_the_clip("sequences", wide)
    assert notice.endswith(f"Leave {ACTOR}.clip_ratio* out for its own 0.05 / 0.05")


def test_what_is_registered_in_the_process_needs_no_file() -> None:
    register_policy_loss("mine", clip=None)(lambda: None)
    register_advantage("ours", min_responses=3)(lambda: None)
    config = load_config(overrides=[f"{ACTOR}.policy_loss=mine", "algorithm.adv_estimator=ours"])
    assert filled(config) == (None, None, "token-mean")
    with pytest.raises(ConfigError) as caught:
        require_supported(config)
    assert caught.value.key == "actor_rollout_ref.rollout.n"
    assert str(caught.value).endswith("needs 3 responses of a prompt or more: set actor_rollout_ref.rollout.n=8")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            f"{ACTOR}.policy_loss=mien",
            f"{ACTOR}.policy_loss.loss_mode=mien is unknown: no file of algorithm.external_modules registers it; did "
            r"you mean mine\? Known: vanilla, .*, mine",
        ),
        (
            "algorithm.adv_estimator=our",
            "algorithm.adv_estimator=our is unknown: no file of algorithm.external_modules registers it; did you mean "
            r"ours\? Known: gae, .*, ours",
        ),
    ],
)
def test_a_mistyped_name_is_found_when_the_configuration_is_loaded(setting: str, message: str, own_file: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{message} \(override {re.escape(setting)}\)$"):
        load_config(overrides=[own_file, setting])


def test_a_mistake_elsewhere_is_said_before_the_file_runs(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')", encoding="utf-8")
    with pytest.raises(ConfigError, match="n=0 is too small"):
        load_config(overrides=[f"algorithm.external_modules={tmp_path}/own.py", "actor_rollout_ref.rollout.n=0"])


def test_a_written_configuration_is_read_without_running_anything(own_file: str, tmp_path: Path) -> None:
    names = [f"{ACTOR}.policy_loss=mine", "algorithm.adv_estimator=ours"]
    config = load_config(overrides=[own_file, *names])
    (tmp_path / "config.yaml").write_text(render(config), encoding="utf-8")
    (tmp_path / "own.py").write_text("raise SystemExit('it was run')", encoding="utf-8")
    program = f"""
import sys
from gspo.config import load_config, render
print(render(load_config({str(tmp_path)!r}, "config", external=False)), end="")
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == render(config)


def test_a_loss_that_does_not_clip_is_read_back_as_it_was(tmp_path: Path) -> None:
    """Nothing is filled where the loss is not known."""
    (tmp_path / "config.yaml").write_text("actor_rollout_ref: {actor: {policy_loss: another}}", encoding="utf-8")
    assert filled(load_config(str(tmp_path), "config", external=False)) == (None, None, None)
    with pytest.raises(ConfigError, match="another is unknown"):
        load_config(str(tmp_path), "config")


def test_a_configuration_made_in_python_is_checked_where_it_is_used(own_file: str) -> None:
    config = Config(
        actor_rollout_ref=ActorRolloutRefConfig(actor=ActorConfig(policy_loss=PolicyLossConfig(loss_mode="mine")))
    )
    with pytest.raises(ConfigError, match="mine is unknown; known: vanilla, "):
        train(config_with_data(config))
    load_external(load_config(overrides=[own_file]))
    load_external(config)
    gae = Config(algorithm=AlgorithmConfig(adv_estimator="gae"), critic=CriticConfig(enable=False))
    with pytest.raises(ConfigError, match="gae needs a critic"):
        load_external(gae)


def config_with_data(config: Config) -> Config:
    """With the keys that a run must have."""
    policy = config.actor_rollout_ref
    model = replace(policy.model, path="nowhere")
    return replace(
        config,
        actor_rollout_ref=replace(policy, model=model, rollout=RolloutConfig(n=4)),
        data=replace(config.data, train_files=["nowhere.jsonl"]),
    )


def test_a_file_may_have_dataclasses_and_one_that_fails_can_be_run_again(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    override = f"algorithm.external_modules={file}"
    file.write_text("1 / 0", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: division by zero \(own\.py, line 1\): fix it$"):
        load_config(overrides=[override])
    file.write_text(
        "from __future__ import annotations\nimport dataclasses\nfrom typing import ClassVar\n\n"
        "@dataclasses.dataclass\nclass A:\n    b: ClassVar[int] = 1\n",
        encoding="utf-8",
    )
    assert load_config(overrides=[override]).algorithm.external_modules == [str(file)]


HALF = """
import beside_half
from gspo import register_advantage, register_policy_loss, register_reward
from gspo.rollout import register_engine

register_policy_loss("half", clip=(0.1, 0.1))(lambda **_: None)
register_advantage("half")(partial(print))
register_reward("half")(lambda solution_str: 0.0)
register_engine("half")(lambda context: None)
"""


def test_a_file_that_fails_half_way_leaves_its_names_free(tmp_path: Path) -> None:
    """Corrected, it runs in the same process, with the module beside it that registers names too."""
    file, neighbour = tmp_path / "own.py", tmp_path / "beside_half.py"
    neighbour.write_text("from gspo import register_policy_loss\nregister_policy_loss('beside')(print)\n")
    tables = (LOSSES, ADVANTAGES, POLICY_LOSS_REGISTRY, ADV_ESTIMATOR_REGISTRY, REWARD_REGISTRY, ENGINE_REGISTRY)
    before = [dict(table) for table in tables]
    override, whole = f"algorithm.external_modules={file}", "from functools import partial\n" + HALF
    for failure in ("1 / 0", "raise SystemExit(0)", "register_policy_loss('gspo')(print)"):
        file.write_text(f"{whole}{failure}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=r"own\.py does not run"):
            load_config(overrides=[override])
        assert [dict(table) for table in tables] == before
    file.write_text(whole, encoding="utf-8")
    load_config(overrides=[override, f"{ACTOR}.policy_loss=half", "algorithm.adv_estimator=half"])
    assert "beside" in LOSSES
    assert all("half" in table for table in tables)
    load_config(overrides=[override])  # once a process


def test_the_package_keeps_what_it_registers_while_a_users_file_imports_it_first(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text("import gspo.algorithms\n1 / 0\n", encoding="utf-8")
    program = f"""
from gspo.config import ConfigError, load_config
try:
    load_config(overrides=["algorithm.external_modules={file}"])
except ConfigError as error:
    assert "ZeroDivisionError" in str(error)
from gspo.algorithms import get_policy_loss_fn, get_adv_estimator_fn
print(get_policy_loss_fn("gspo").__name__, get_adv_estimator_fn("grpo").__name__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["compute_policy_loss_gspo", "compute_grpo_outcome_advantage"]


def test_the_report_of_a_later_process_knows_what_a_loss_declared(tmp_path: Path) -> None:
    register_policy_loss("own", sequence_clip=True, clip=(0.1, 0.2), clip_band=Band(high=0.05, ceiling=0.15))(print)
    register_advantage("alone", compares_groups=False)(print)
    config = load_config(overrides=[f"{ACTOR}.policy_loss=own", "algorithm.adv_estimator=alone"])
    write_methods(tmp_path, config)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "actor/pg_clipfrac": 0.2}\n')
    expected = config.loss_facts
    for table in (LOSSES, ADVANTAGES):
        for name in ("own", "alone"):
            table.pop(name, None)
    run = read_curves(tmp_path)
    assert run.loss == expected
    assert (run.loss.clip, run.loss.clip_band) == ((0.1, 0.2), Band(high=0.05, ceiling=0.15))
    assert not run.compares_groups
    assert [verdict.status for verdict in read_run(run)] == ["problem"]
    (tmp_path / "methods.json").write_text('{"policy_loss": {"name": "own", "colour": 1}}')
    with pytest.raises(ValueError, match=r"methods\.json does not hold what a run writes there; restore it or remove"):
        read_curves(tmp_path)
    write_methods(tmp_path, load_config())
    assert not (tmp_path / "methods.json").exists()


def test_the_report_takes_a_loss_that_it_does_not_know_by_its_metrics(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("actor_rollout_ref: {actor: {policy_loss: {loss_mode: another}}}")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "actor/pg_clipfrac": 0.2}\n')
    assert [verdict.status for verdict in read_run(read_curves(tmp_path))] == ["watch"]
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "actor/pg_clipfrac": 0.2, "actor/seq_clipfrac": 0.2}\n')
    assert [verdict.status for verdict in read_run(read_curves(tmp_path))] == ["healthy", "healthy"]
    register_policy_loss("another", clip=None)(lambda: None)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "actor/pg_clipfrac": 0.2}\n')
    assert read_run(read_curves(tmp_path)) == []


# The guide of CONTRIBUTING, as it is written there.


def guide() -> tuple[str, list[str], str]:
    """The file, the words of the command and the script."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    text = text.partition("## Add a policy loss")[2].partition("\n## ")[0]
    file, script = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return file, command.split(), script


@pytest.mark.slow
@pytest.mark.parametrize("way", ["command", "script"])
def test_the_guide_of_a_loss_of_ones_own_is_true(way: str, run_overrides: Overrides, tmp_path: Path) -> None:
    file, command, script = guide()
    (tmp_path / "capped.py").write_text(file, encoding="utf-8")
    (tmp_path / "configs").mkdir()
    kept = [text for text in run_overrides("trainer.total_training_steps=1") if ".policy_loss=" not in text]
    settings = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in kept)}
    (tmp_path / "configs" / "my_run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    program = ["-m", *command] if way == "command" else ["-c", script]
    done = subprocess.run(
        [sys.executable, *program], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    actor = read_curves(tmp_path / "run").setting(ACTOR)
    assert actor["policy_loss"]["loss_mode"] == "capped"
    assert (actor["clip_ratio_low"], actor["clip_ratio_high"]) == (0.5, 1.0)
    assert actor["loss_agg_mode"] == "seq-mean-token-mean"
    curves = read_curves(tmp_path / "run").curves
    assert curves["actor/grad_norm"].values[0] > 0
    assert 0 <= curves["actor/pg_clipfrac"].values[0] <= 1
