"""What is printed loads back to the same, and the page of all keys is up to date."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from messages import names

from gspo.cli import main
from gspo.config import Config, load_config, render
from gspo.config.docs import make_page
from gspo.config.resolve import resolve
from gspo.config.schema import RewardFunctionConfig
from gspo.config.settings import known_keys
from gspo.config.sources import preset_names
from gspo.config.usage import key_facts

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def reloaded(config: Config, folder: Path) -> Config:
    (folder / "printed.yaml").write_text(render(config), encoding="utf-8")
    return load_config(str(folder), "printed")


@pytest.mark.parametrize("preset", [None, *preset_names()])
def test_a_preset_printed_and_loaded_is_the_same(tmp_path: Path, preset: str | None) -> None:
    config = load_config(None, preset)
    again = reloaded(config, tmp_path)
    assert again == config
    assert render(again) == render(config)
    assert again.user_set == set(known_keys())


# Texts as a user may have them; surrogates are no text, and ??? is OmegaConf's mark of a value still to be set.
texts = st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: text != "???")
# A template is a text with a brace, or the name of a file, in which ~ and NUL mean something.
templates = texts.map(lambda text: text + "{{ messages }}")
numbers = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), inner, max_size=3)
    ),
    max_leaves=5,
)
mappings = st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), values, max_size=3)


@given(
    template=templates,
    stop=st.lists(texts, max_size=3),
    free=mappings,
    weight=numbers,
    lr=st.floats(0, 1),
    seed=st.integers(0),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_values_printed_and_loaded_are_the_same(
    tmp_path: Path, template: str, stop: list[str], free: dict[str, object], weight: float, lr: float, seed: int
) -> None:
    config = load_config(None, "gspo_gsm8k")
    policy = config.actor_rollout_ref
    config = resolve(
        replace(
            config,
            actor_rollout_ref=replace(
                policy,
                model=replace(policy.model, chat_template=template, override_config=free),
                rollout=replace(policy.rollout, stop=stop),
                actor=replace(policy.actor, optim=replace(policy.actor.optim, lr=lr)),
            ),
            reward=replace(config.reward, functions=[RewardFunctionConfig(name="gsm8k", weight=weight, kwargs=free)]),
            trainer=replace(config.trainer, seed=seed),
        )
    )
    assert reloaded(config, tmp_path) == config


def test_the_line_of_a_field_stands_beside_it_or_above() -> None:
    lines = render(load_config(overrides=["actor_rollout_ref.actor.policy_loss=gspo"])).splitlines()
    assert "      lr: 1.0e-06  # Peak learning rate." in lines
    assert "    clip_ratio_high: 0.0004  # Clip range above 1; null: clip_ratio." in lines
    index = lines.index("    loss_agg_mode: seq-mean-token-mean")
    assert lines[index - 2].startswith("    # From token losses to one number; null: the loss's own (token-mean: ")
    assert lines[index - 1].startswith("    # ")
    assert lines[index - 1].endswith(").")
    assert max(map(len, lines)) <= 120


def test_plain_yaml_reads_the_same_tree() -> None:
    tree = yaml.safe_load(render(load_config()))
    assert tree["actor_rollout_ref"]["actor"]["optim"]["lr"] == 1e-6
    assert tree["trainer"]["logger"] == ["console", "jsonl", "tensorboard"]


def test_the_page_of_all_keys_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == make_page(), "run `python -m gspo.config.docs docs/config.md`"


def test_the_page_has_every_key() -> None:
    page = make_page()
    for key in known_keys():
        assert f"| `{key.rpartition('.')[2]}` |" in page


# Parts of the tree, and lines that can be searched.


def test_a_section_is_printed_with_the_sections_above_it() -> None:
    config = load_config(None, "gspo_gsm8k")
    whole = yaml.safe_load(render(config))
    optim = whole["actor_rollout_ref"]["actor"]["optim"]
    assert yaml.safe_load(render(config, ["actor_rollout_ref.actor.optim"])) == {
        "actor_rollout_ref": {"actor": {"optim": optim}}
    }
    both = render(config, ["trainer.seed", "algorithm"])
    assert yaml.safe_load(both) == {"algorithm": whole["algorithm"], "trainer": {"seed": whole["trainer"]["seed"]}}
    assert set(both.splitlines()) <= set(render(config).splitlines())
    assert render(config, []) == ""


@pytest.mark.parametrize("preset", [None, "gad_gspo_config", "ppo_config"])
def test_flat_lines_have_every_key_and_load_to_the_same(tmp_path: Path, preset: str | None) -> None:
    config = load_config(None, preset, ["custom_reward_function.reward_kwargs={a: {b: [1, x]}}"])
    lines = render(config, flat=True).splitlines()
    assert sorted(line.split(": ")[0] for line in lines) == sorted(known_keys())
    for line in lines:
        assert line.endswith(f"  # {key_facts()[line.split(': ')[0]].metadata['line']}")
    (tmp_path / "flat.yaml").write_text(render(config, flat=True), encoding="utf-8")
    assert load_config(str(tmp_path), "flat") == config


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trainer.seed"], ["trainer.seed"]),
        (["seed", "trainer.seed=4"], ["trainer.seed"]),
        (["actor_rollout_ref.actor.grad_clip"], ["actor_rollout_ref.actor.optim.clip_grad"]),
        (["--set-only", "trainer.seed=4", "data.seed=5"], ["data.seed", "trainer.seed"]),
        (["--set-only", "trainer", "trainer.seed=4", "data.seed=5"], ["trainer.seed"]),
        (["--set-only", "--config-name", "gspo_gsm8k", "trainer.seed=4"], ["trainer.seed"]),
        (["--set-only", "--config-path", "HERE", "--config-name", "mine"], ["algorithm.gamma"]),
        (["--set-only"], []),
    ],
)
def test_the_command_prints_what_is_named_or_set(
    words: list[str], expected: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.yaml").write_text("defaults: [gspo_gsm8k]\nalgorithm: {gamma: 0.9}\n")
    assert main(["config", "--flat", *(word.replace("HERE", str(tmp_path)) for word in words)]) == 0
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == expected


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("trianer", ["trianer", "did you mean trainer?"]),
        ("actor_rollout_ref.actor.optm", ["actor_rollout_ref.actor.optm", "actor_rollout_ref.actor.optim"]),
        (
            "actor_rollout_ref.actor.strategy",
            ["actor_rollout_ref.actor.strategy", "no value of its own here", "each process holds the whole model"],
        ),
    ],
)
def test_a_section_that_there_is_not(name: str, parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", name]) == 1
    assert names(capsys.readouterr().err, *parts)
