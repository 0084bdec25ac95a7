"""Where a relative --config-path of verl's command is looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra._internal.config_search_path_impl import ConfigSearchPathImpl

from gspo.integrations.verl import search_path
from gspo.integrations.verl.search_path import RECIPE, GspoSearchPath


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of verl's entry point; the current directory is another."""
    folder = tmp_path / "site-packages" / "verl" / "trainer"
    folder.mkdir(parents=True)
    monkeypatch.setattr(search_path, "_verl_folder", lambda: folder)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return folder


def changed(main: Path | str) -> list[str]:
    path = ConfigSearchPathImpl()
    path.append("hydra", "pkg://hydra.conf")
    path.append("main", str(main))
    GspoSearchPath().manipulate_search_path(path)
    return [str(part.path) for part in path.get_path()][1:]


def test_a_folder_beside_verl_stays_the_main_one(beside: Path) -> None:
    (beside / "config").mkdir()
    assert changed(beside / "config") == [str(beside / "config"), f"file://{RECIPE}"]


def test_a_folder_in_the_current_directory_is_meant_otherwise(beside: Path) -> None:
    Path("configs").mkdir()
    assert changed(beside / "configs") == [f"file://{Path('configs').absolute()}", f"file://{RECIPE}"]


def test_the_recipe_is_meant_where_there_is_neither(beside: Path) -> None:
    assert changed(beside / "configs")[0] == f"file://{RECIPE}"
    assert (RECIPE / "gad_gspo_config.yaml").is_file()


def test_other_programs_are_left_alone(beside: Path, tmp_path: Path) -> None:
    del beside
    assert changed(tmp_path / "elsewhere") == [str(tmp_path / "elsewhere")]
