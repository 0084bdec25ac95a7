"""What is said before torch is imported: packages, and mistakes that need none of it; what start-up imports."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from messages import names
from packaging.version import Version

import gspo
from gspo.commands.ready import require_packages, writable
from gspo.shell import pip_install

HEAVY = ("torch", "transformers", "pyarrow", "pandas", "numpy", "rich", "openai", "datasets", "tensorboard")
_DATA = ("pyarrow", "numpy")
COMMANDS: dict[str, tuple[list[str], int, tuple[str, ...]]] = {
    "--help": (["--help"], 0, ()),
    "--version": (["--version"], 0, ()),
    "train --help": (["train", "--help"], 0, ()),
    "data --help": (["data", "teacher", "--help"], 0, ()),
    "config": (["config"], 0, ()),
    "config of a preset": (["config", "--config-name", "gspo_gsm8k", "trainer.seed=3", "--flat"], 0, ()),
    "a misspelt command": (["trian"], 2, ()),
    "a misspelt key": (["train", "trainer.sed=3"], 1, ()),
    "no model": (["train"], 1, ()),
    "no model to fine-tune": (["sft"], 1, ()),
    "no data file": (["train", "actor_rollout_ref.model.path=m", "data.train_files=gone.parquet"], 1, ()),
    "no data file to evaluate on": (["eval", "m", "--data", "gone.parquet"], 1, ()),
    "questions": (["data", "jsonl", "questions.jsonl", "--out", "x.parquet"], 0, _DATA),
    "no run to report": (["report", "gone"], 1, ("numpy", "rich")),
}


@pytest.mark.parametrize(("words", "code", "needed"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_imports_what_it_needs(words: list[str], code: int, needed: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text('{"prompt": "1 + 1?", "answer": 2}\n')
    program = (
        "import sys\nfrom gspo.cli import main\n"
        f"try:\n    code = main({words!r})\nexcept SystemExit as done:\n    code = done.code\n"
        f"print('\\nimported', code, *(name for name in {HEAVY} if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(gspo.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    _, found, *imported = done.stdout.splitlines()[-1].split()
    assert (int(found), done.stdout.count("Traceback")) == (code, 0), done.stderr
    assert set(imported) <= set(needed)


def test_packages_that_are_missing_or_too_old_are_named_with_the_command() -> None:
    installed = metadata.version("safetensors")
    wrong = [f"safetensors>={Version(installed).major + 1}.2", "no-such-package>=2"]
    with pytest.raises(ValueError, match="gspo needs") as caught:
        require_packages([*wrong, "numpy>=1", "wandb>=99; extra == 'x'"])
    said = (f"safetensors {installed} is installed", "no-such-package is not installed", pip_install(*wrong))
    assert names(caught, *said)
    assert "numpy" not in str(caught.value)
    require_packages(["safetensors>=0.1"])
    require_packages()


def test_a_build_before_a_release_counts_as_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: {"a": "2.6.0a0+git1", "b": "2.6.0+cpu", "c": "2.5.1"}[name])
    require_packages(["a>=2.6", "b>=2.6"])
    with pytest.raises(ValueError, match=r"gspo needs c>=2\.6, and c 2\.5\.1 is installed"):
        require_packages(["c>=2.6"])


def test_a_folder_that_can_be_written_to_is_left_as_it_was(tmp_path: Path) -> None:
    assert writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--out") as caught:
        writable(tmp_path / "file" / "b")
    assert names(caught, f"{tmp_path / 'file'} is a file", "name a folder")
