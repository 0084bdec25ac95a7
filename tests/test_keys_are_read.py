"""Every key is read, while a run of each command that the schema names for it goes on, and by no other command."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gspo.cli import main
from gspo.config import load_config, notices, render
from gspo.config.fields import Section, leaves
from gspo.config.usage import key_facts

ACTOR, ROLLOUT, ALGORITHM = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "algorithm"
OWN = Path(__file__).parents[1] / "docs" / "examples" / "my_loss.py"

# Modules of the configuration that act on what they read; the others bring it into form, print it or speak of it.
_ACT = ("gspo.config.compose", "gspo.config.requirements")

# What the commands read without an effect.
WITHOUT_EFFECT = {
    ("eval", "data.teacher_key"),  # a teacher's text is kept with its prompt
    ("sft", "trainer.val_only"),  # asked by all that opens a run
}

# Shorter than some prompts.
LONG, LONG_TEST = "data.max_prompt_length=24", "data.max_prompt_length=17"
RUNS: dict[str, list[list[str]]] = {
    "train": [
        [
            f"{ALGORITHM}.rollout_correction.rollout_is=token",
            f"{ALGORITHM}.filter_groups.enable=true",
            "reward.overlong_buffer.enable=true",
            "reward.overlong_buffer.len=2",
            f"{ACTOR}.use_dynamic_bsz=false",
            f"{ACTOR}.ppo_micro_batch_size_per_gpu=2",
            f"{ROLLOUT}.val_kwargs.do_sample=true",
            f"{ROLLOUT}.val_kwargs.temperature=1.0",
            "~trainer.total_training_steps",
            LONG,
            "data.truncation=left",
        ],
        [
            f"{ACTOR}.use_kl_loss=true",
            f"{ALGORITHM}.use_kl_in_reward=true",
            f"{ALGORITHM}.kl_ctrl.type=adaptive",
            "actor_rollout_ref.ref.sync_steps=1",
            f"{ALGORITHM}.external_modules=[{OWN}]",
            LONG,
            "data.filter_overlong_prompts=true",
        ],
        [f"{ALGORITHM}.adv_estimator=gae", "trainer.critic_warmup=1"],
        [f"{ALGORITHM}.adv_estimator=gae", "critic.shared_backbone=true"],
        ["critic.enable=true", "data.teacher_key=answer", "trainer.gad_warmup_steps=1", "trainer.critic_warmup=1"],
        ["critic.enable=true", "data.teacher_key=answer", "trainer.gad_warmup_epochs=1"],
    ],
    "sft": [
        ["~trainer.total_training_steps", LONG, "data.truncation=left", f"{ACTOR}.ppo_micro_batch_size_per_gpu=2"],
        [LONG, "data.filter_overlong_prompts=true", f"{ALGORITHM}.external_modules=[{OWN}]"],
    ],
}
EVALUATIONS = [
    [LONG_TEST, "data.truncation=left", "reward.overlong_buffer.enable=true", "reward.overlong_buffer.len=2"],
    [LONG_TEST, "data.filter_overlong_prompts=true"],
]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keys that are read from here on, but for what the configuration itself reads of them."""
    found: set[str] = set()
    original = object.__getattribute__

    def reader() -> str:
        """The module that reads, or that asks the property of `Config` that does."""
        frame = sys._getframe(2)
        module = frame.f_globals.get("__name__", "")
        # A property is asked for through `read`, below, in this module.
        passing = ("gspo.config.schema", __name__)
        while module in passing and frame.f_code.co_name != "__post_init__" and frame.f_back is not None:
            frame = frame.f_back
            module = frame.f_globals.get("__name__", "")
        return str(module)

    def read(section: Section, name: str) -> Any:
        if name in leaves(type(section)):
            module = reader()
            if module in _ACT or (module.startswith("gspo.") and not module.startswith("gspo.config")):
                found.add(section.key(name))
        return original(section, name)

    monkeypatch.setattr(Section, "__getattribute__", read, raising=False)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "sft", "eval"])
def test_the_readers_of_a_key_are_those_that_read_it(
    command: str,
    reads: set[str],
    run_overrides: Callable[..., list[str]],
    tiny_model_folder: Path,
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    reward = f"custom_reward_function.path={tiny_data / 'reward.py'}"
    if command == "eval":
        for number, settings in enumerate(EVALUATIONS):
            arguments = ["eval", str(tiny_model_folder), "--data", str(tiny_data / "test.jsonl")]
            short = ["data.max_response_length=6", "trainer.num_threads=1", reward]
            assert main([*arguments, "--out", str(tmp_path / str(number)), "--set", *short, *settings]) == 0
    for number, settings in enumerate(RUNS.get(command, [])):
        folder = tmp_path / str(number)
        further = [f"data.val_files={tiny_data / 'test.jsonl'}", f"trainer.default_local_dir={folder}", *settings]
        assert main([command, *run_overrides(*further)]) == 0
        if number == 0:
            again = [*further, "trainer.resume_mode=resume_path", f"trainer.resume_from_path={newest(folder)}"]
            assert main([command, *run_overrides(*again)]) == 0
    declared = {key for key, leaf in key_facts().items() if command in leaf.read_by}
    assert sorted(declared - reads) == []
    of_the_schema = reads & key_facts().keys()
    without_effect = {key for name, key in WITHOUT_EFFECT if name == command}
    assert sorted(of_the_schema - declared - without_effect) == []


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("global_step_*"))


def test_a_key_that_is_only_checked_printed_and_spoken_of_is_not_read(reads: set[str]) -> None:
    config = load_config(overrides=["critic.optim.lr=1"])
    assert notices(config) != []
    render(config)
    assert reads == {"algorithm.external_modules"}  # whose files are run when a configuration is loaded
