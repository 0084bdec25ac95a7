"""Settings of odd forms: aliases that lead back, thousands of levels, texts that cannot be encoded, names with `..`."""

from __future__ import annotations

from pathlib import Path

import pytest
from messages import names

from gspo.config import ConfigError, load_config


def refused(folder: Path, text: str) -> str:
    (folder / "c.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(str(folder), "c")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("trainer: &t\n  logger: *t\n", 1),
        ("data:\n  train_files: &x [*x]\n", 2),
        ("custom_reward_function:\n  reward_kwargs: {a: &a {b: [*a]}}\n", 2),
    ],
)
def test_an_alias_that_leads_back_is_named_by_its_line(text: str, line: int, tmp_path: Path) -> None:
    assert names(refused(tmp_path, text), tmp_path / "c.yaml", f"line {line}", "alias")


def test_an_alias_may_be_used_twice(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("custom_reward_function: {reward_kwargs: {a: &a {n: [1]}, b: *a, c: [*a, *a]}}\n")
    one = {"n": [1]}
    assert load_config(str(tmp_path), "c").custom_reward_function.reward_kwargs == {"a": one, "b": one, "c": [one, one]}


@pytest.mark.parametrize("levels", [200, 50_000])
def test_values_of_many_levels(levels: int, tmp_path: Path) -> None:
    nested = "[" * levels + "]" * levels
    assert names(refused(tmp_path, f"data:\n  train_files: {nested}\n"), tmp_path / "c.yaml", "levels deep")
    value: list[object] = []
    for _ in range(levels):
        value = [value]
    with pytest.raises(ConfigError) as caught:
        load_config(settings={"custom_reward_function.reward_kwargs": {"a": value}})
    assert names(caught, "custom_reward_function.reward_kwargs", "levels deep")


def test_overrides_that_hydra_cannot_hold() -> None:
    for value in ("[" * 3000 + "]" * 3000, "9" * 5000):
        with pytest.raises(ConfigError) as caught:
            load_config(overrides=[f"trainer.seed={value}"])
        assert names(caught, "cannot read the override trainer.seed=", "key=value")
        assert len(str(caught.value)) < 1000


def test_texts_that_cannot_be_encoded() -> None:
    for settings in ({"trainer.project_name": "a\ud83d"}, {"custom_reward_function.reward_kwargs": {"b": ["\udce9"]}}):
        ((key, _),) = settings.items()
        with pytest.raises(ConfigError) as caught:
            load_config(settings=settings)
        assert names(caught, key, "surrogate")


@pytest.mark.parametrize("key", ["trainer.project_name", "trainer.experiment_name"])
@pytest.mark.parametrize("name", ["..", "../../x", "a/../../../x", "/../x"])
def test_names_do_not_lead_out_of_the_folder_of_runs(key: str, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=[f"{key}={name}"])
    assert names(caught, f"{key}={name}", "trainer.default_local_dir")
    own = load_config(overrides=[f"{key}={name}", "trainer.default_local_dir=here"])
    assert own.trainer.default_local_dir == "here"


def test_names_that_stay_within_it() -> None:
    for name in ("a/b", "/a", "..a", "a..b"):
        config = load_config(overrides=[f"trainer.project_name={name}", "trainer.experiment_name=e"])
        folder = Path(config.trainer.default_local_dir or "")
        assert folder.resolve() == Path(f"runs/{name.lstrip('/')}/e").resolve()


def test_a_model_in_the_working_folder_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "deep").mkdir(parents=True)
    for folder, path in (("mine", "."), ("mine/deep", ".."), ("mine", "deep/..")):
        monkeypatch.chdir(tmp_path / folder)
        config = load_config(overrides=[f"actor_rollout_ref.model.path={path}"])
        assert config.trainer.experiment_name == "vanilla-mine"
