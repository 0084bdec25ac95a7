"""What the schema says of its keys at their fields: which command reads a key, and what it has no effect without."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

import gspo
from gspo.config import Config, load_config, notices, supervised_notices
from gspo.config.fields import COMMANDS, Needs, Section, leaves_below, option
from gspo.config.usage import is_read, key_facts, keys_read, unused

PACKAGE = Path(gspo.__file__).parent
# They make the tree, print it and speak of it: what they read has no effect on a run.
ABOUT_KEYS = ("schema_", "fields.py", "printing.py", "docs.py", "checks.py", "needs.py", "usage.py")
# They read some keys by a text: `read_setting`, `require_supported`.
READ_BY_TEXT = {"algorithms", "requirements.py"}
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


def without_readers(kind: type[Section]) -> list[str]:
    return [leaf.key for leaf in leaves_below(kind) if not leaf.read_by or not set(leaf.read_by) <= set(COMMANDS)]


def never_read(names: Iterable[str]) -> list[str]:
    """The names that no source file reads: as an attribute, or by a text that is its name or a key that ends in it."""
    found = set()
    for file in PACKAGE.rglob("*.py"):
        if file.parent.name == "config" and file.name.startswith(ABOUT_KEYS):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found.add(node.attr)
            elif isinstance(node, ast.Constant) and {file.parent.name, file.name} & READ_BY_TEXT:
                found.add(str(node.value).rpartition(".")[2])
    return sorted(set(names) - found)


def names_of(kind: type[Section]) -> list[str]:
    return [leaf.key.rpartition(".")[2] for leaf in leaves_below(kind)]


@dataclass(frozen=True, kw_only=True)
class MadeUp(Section):
    """A section as somebody might write it who forgets its readers."""

    key_that_nothing_reads: int = option(1, "A key.", read_by=("train",))
    key_of_no_command: int = option(1, "A key.")
    key_of_another_command: int = option(1, "A key.", read_by=("bake",))


def test_every_key_has_a_command_that_reads_it() -> None:
    # One process reads how many there should be when the configuration is loaded, and says that it is one.
    assert without_readers(Config) == ["trainer.nnodes", "trainer.n_gpus_per_node"]
    assert without_readers(MadeUp) == ["key_of_no_command", "key_of_another_command"]


def test_every_key_is_read_by_some_source_file() -> None:
    """tests/test_keys_are_read.py sees each of them be read; this one also finds what its runs do not reach."""
    assert never_read(names_of(Config)) == []
    assert never_read(names_of(MadeUp)) == sorted(names_of(MadeUp))


def test_a_section_speaks_for_its_keys_and_a_key_for_itself() -> None:
    always, never = Needs("always", lambda _: True), Needs("never", lambda _: False)

    @dataclass(frozen=True, kw_only=True)
    class Below(Section):
        READ_BY: ClassVar[tuple[str, ...]] = ("sft",)
        ONLY_WITH: ClassVar[tuple[Needs, ...]] = (always,)
        first: int = option(1, "A key.")
        second: int = option(1, "A key.", read_by=("eval",), only_with=never)
        third: int = option(1, "A key.", only_with=())

    facts = [(leaf.key, leaf.read_by, leaf.only_with) for leaf in leaves_below(Below)]
    assert facts == [("first", ("sft",), (always,)), ("second", ("eval",), (never,)), ("third", ("sft",), ())]


def test_the_keys_of_a_command_are_named_by_the_largest_section() -> None:
    reads = keys_read("eval")
    assert {"actor_rollout_ref.model.", "custom_reward_function.", "trainer.seed", f"{ROLLOUT}.stop"} <= set(reads)
    assert "actor_rollout_ref." not in reads
    assert "reward.discriminator_weight" not in reads
    for key in key_facts():
        named = [name for name in reads if key == name or (name.endswith(".") and key.startswith(name))]
        assert len(named) == is_read(key, "eval")


def lines(command: str, *overrides: str) -> list[str]:
    return list(unused(load_config(overrides=overrides), command))


def test_one_line_for_each_reason() -> None:
    found = lines("train", "critic.optim.lr=1", "critic.shuffle=true", "trainer.gad_warmup_lr=1", "data.answer_key=a")
    assert found == [
        "critic.optim.lr, critic.shuffle: no effect without a critic (algorithm.adv_estimator=gae trains one)",
        "data.answer_key: gspo train does not use it",
        "trainer.gad_warmup_lr: no effect without a discriminator (critic.model.path with grpo trains one)",
    ]


SHARED = ("algorithm.adv_estimator=gae", "critic.shared_backbone=true")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("critic.value_loss_coef=1", *SHARED), []),
        (
            ("critic.value_loss_coef=1", "algorithm.adv_estimator=gae"),
            ["no effect without critic.shared_backbone=true"],
        ),
        (("critic.value_loss_coef=1",), ["no effect without a critic"]),
        (("critic.value_loss_coef=1", "critic.enable=true"), ["no effect with a discriminator, which has no values"]),
        (("critic.optim.lr=1", "critic.cliprange_value=1", *SHARED), ["no effect with critic.shared_backbone=true, "]),
        (("critic.optim.lr=1", "critic.cliprange_value=1", "algorithm.adv_estimator=gae"), []),
        (("critic.optim.lr=1", "critic.discriminator.margin=1", "critic.model.path=a"), []),
        (("critic.strategy=fsdp",), []),  # verl's, which has its own line
    ],
)
def test_a_key_of_the_critic_has_an_effect_where_it_is_read(overrides: tuple[str, ...], expected: list[str]) -> None:
    found = lines("train", *overrides)
    assert len(found) == len(expected)
    for line, reason in zip(found, expected, strict=True):
        assert f": {reason}" in line


def test_supervised_training_cuts_its_passes_as_the_actor_does() -> None:
    assert lines("sft", f"{ACTOR}.ppo_micro_batch_size_per_gpu=2", f"{ACTOR}.use_dynamic_bsz=false") == []
    assert supervised_notices(load_config(overrides=["critic.optim.lr=1"])) == [
        "critic.optim.lr: gspo sft does not use it; one training step is one optimizer step on data.train_batch_size "
        "prompts"
    ]


def test_what_nobody_has_set_is_not_spoken_of() -> None:
    config: Any = load_config(None, "ppo_config")
    assert [line for line in notices(config) if "no effect" in line] == []
    assert list(unused(config, "sft")) == []
