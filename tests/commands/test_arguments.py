"""Command lines as a new user types them: each mistake is answered by what to type, which is held to be right."""

from __future__ import annotations

import argparse
import errno
import os
from pathlib import Path

import pytest
from messages import names

from gspo.cli import _parser, main
from gspo.commands import arguments
from gspo.config import load_config
from gspo.config.other_names import OTHER_NAMES
from gspo.config.settings import full_key, known_keys
from gspo.shell import gspo_command


def said(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and the line of the error."""
    try:
        code = main(words)
    except SystemExit as done:
        code = int(str(done.code))
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return code, error.splitlines()[-1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a file of settings, a data file and a model's folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("trainer:\n  seed: 3\n")
    (tmp_path / "configs" / "tabs.yaml").write_text("data: {}\ntrainer:\n\tseed: 3\n")
    (tmp_path / "my-model").mkdir()
    return tmp_path


NAMED = ["--config-path configs --config-name mine"]
COMMANDS: dict[str, tuple[list[str], int, list[str]]] = {
    "a misspelt command": (["trian"], 2, ["trian", gspo_command("train")]),
    "a word for a command": (["evaluate", "m"], 2, ["evaluate", gspo_command("eval")]),
    "help as a command": (["help"], 2, [gspo_command("--help")]),
    "no command": ([], 2, ["COMMAND", gspo_command("--help")]),
    "no kind of data": (["data"], 2, ["KIND", gspo_command("data", "--help")]),
    "a kind of file for a kind of data": (["data", "csv", "a.csv"], 2, ["data csv", gspo_command("data", "jsonl")]),
    "an option that there is not": (["report", "a", "--open"], 2, ["--open", gspo_command("report", "--help")]),
    "an abbreviated option": (["eval", "m", "--data", "d", "--max-sample", "3"], 2, ["--max-sample"]),
    "a misspelt option": (["train", "--confg-name", "mine"], 2, ["--confg-name", "--config-name"]),
    "a file by one option": (["train", "--config", "configs/mine.yaml"], 2, ["--config", *NAMED]),
    "a file as the folder": (["train", "--config-path", "configs/mine.yaml"], 1, NAMED),
    "a file as the folder and the name": (
        ["train", "--config-path", "configs/mine.yaml", "--config-name", "mine"],
        1,
        NAMED,
    ),
    "a file as the name": (["train", "--config-name", "configs/mine.yaml"], 1, NAMED),
    "a file as the name, without its ending": (["train", "--config-name", "configs/mine"], 1, NAMED),
    "a file without an option": (["train", "configs/mine.yaml"], 1, ["configs/mine.yaml", *NAMED]),
    "a file of tabs": (
        ["train", "--config-path", "configs", "--config-name", "tabs"],
        1,
        ["configs/tabs.yaml", "line 3", "tab", "spaces"],
    ),
    "a preset without an option": (["train", "gspo_gsm8k"], 1, ["--config-name gspo_gsm8k"]),
    "a data file without a key": (["train", "train.jsonl"], 1, ["data.train_files=train.jsonl"]),
    "a model without a key": (["train", "my-model"], 1, ["actor_rollout_ref.model.path=my-model"]),
    "options for settings": (["train", "--lr", "1e-6"], 2, ["--lr", "actor_rollout_ref.actor.optim.lr=1e-6"]),
    "an option with its value": (["sft", "--lr=1e-6"], 2, ["--lr", "actor_rollout_ref.actor.optim.lr=1e-6"]),
    "an option of another trainer": (
        ["train", "--num-train-epochs", "2"],
        2,
        ["--num-train-epochs", "trainer.total_epochs=2"],
    ),
    "a whole key as an option": (["train", "--trainer.seed=3"], 2, ["trainer.seed=3"]),
    "an option without a value": (["train", "--seed"], 2, ["trainer.seed=VALUE"]),
    "an option that no key is": (["train", "--frobnicate", "2"], 2, ["--frobnicate", "key=value"]),
    "an option for overrides": (["config", "--set", "trainer.seed=3"], 2, ["--set", "key=value"]),
    "a secret as an option": (["train", "--api_key", "sk-1234567"], 2, ["--api_key"]),
    "a key of another trainer": (["train", "learning_rate=1e-6"], 1, ["actor_rollout_ref.actor.optim.lr"]),
    "one of it in a section": (["train", "critic.optim.learning_rate=1e-6"], 1, ["did you mean critic.optim.lr?"]),
    "spaces around the sign": (["train", "trainer.seed", "=", "3"], 1, ["trainer.seed=3"]),
    "a space before the sign": (["train", "trainer.seed", "=3"], 1, ["trainer.seed=3"]),
    "a space behind the sign": (["train", "trainer.seed=", "3"], 1, ["trainer.seed=3"]),
    "two signs": (["train", "trainer.seed==3"], 1, ["trainer.seed=3"]),
    "YAML in two words": (["train", "trainer.seed:", "3"], 1, ["trainer.seed=3"]),
    "YAML in one word": (["train", "trainer.seed: 3"], 1, ["trainer.seed=3"]),
    "a mapping": (["train", "{trainer.seed: 3}"], 1, ["KEY=VALUE"]),
    "a comma between overrides": (["train", "trainer.seed=3,", "data.seed=2"], 1, ["trainer.seed=3,", "comma"]),
    "a key without a value": (["train", "trainer.seed"], 1, ["trainer.seed=VALUE"]),
    "typographic quotes": (["train", "data.train_files=“a.parquet”"], 1, ["data.train_files=“a.parquet”", "straight"]),
    "a long dash": (["train", "—config-name", "mine"], 1, ["—config-name", "--"]),
    "a no-break space": (["train", "\u00a0trainer.seed=3"], 1, ["trainer.seed", "no-break space"]),
    "line ends of Windows": (["train", "trainer.seed=3\r"], 1, ["trainer.seed=3", "sed -i 's/\\r$//'"]),
    "a space behind a backslash": (["train", " ", "trainer.seed=3"], 1, ["backslash"]),
    "a path of Windows": (
        ["train", "data.train_files=C:\\data\\train.parquet"],
        1,
        ["C:\\data\\train.parquet", "/mnt/c/data/train.parquet"],
    ),
    "a model's path of Windows": (["train", "actor_rollout_ref.model.path=d:/m"], 1, ["d:/m", "/mnt/d/m"]),
    "a setting as a model": (["eval", "actor_rollout_ref.model.path=m", "--data", "d.json"], 1, ["alone, as m"]),
    "a setting of an evaluation": (
        ["eval", "m", "data.seed=3", "--data", "d.json"],
        1,
        ["data.seed=3", "--set"],
    ),
    "a place that cannot be written": (["quickstart", "--out", "/proc/x"], 1, ["--out /proc/x", "another folder"]),
    "a place below a file": (
        ["compare", "--variants", "a", "--out", "configs/mine.yaml/out"],
        1,
        ["--out configs/mine.yaml/out", "configs/mine.yaml is a file"],
    ),
}


@pytest.mark.parametrize(("words", "code", "parts"), COMMANDS.values(), ids=COMMANDS)
def test_it_is_answered_by_what_to_type(
    words: list[str], code: int, parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    found, line = said(words, capsys)
    assert found == code
    assert names(line, "error: ", *parts)
    assert "sk-1234567" not in line


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["--lr", "1e-6"], "actor_rollout_ref.actor.optim.lr=1e-6"),
        (["--num_generations=4"], "actor_rollout_ref.rollout.n=4"),
        (["trainer.seed", "=", "3"], "trainer.seed=3"),
        (["trainer.seed=", "3"], "trainer.seed=3"),
        (["trainer.seed:=3"], "trainer.seed=3"),
        (["trainer.seed: 3"], "trainer.seed=3"),
        (["configs/mine.yaml"], *NAMED),
        (["--config", "configs/mine.yaml"], *NAMED),
        (["--config-name", "configs/mine.yaml"], *NAMED),
    ],
)
def test_what_it_says_to_type_is_read(words: list[str], typed: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed in said(["config", *words], capsys)[1]
    assert main(["config", *typed.split()]) == 0


@pytest.mark.parametrize(
    "word",
    [
        "trainer.seed=3",
        "+trainer.seed=3",
        "~trainer.seed",
        "data.train_files=[a.parquet,b.parquet]",
        'data.system_prompt="Don’t guess, think"',
        "trainer.experiment_name=",
        "custom_reward_function.reward_kwargs={a: 1}",
        "actor_rollout_ref.rollout.stop=['=']",
    ],
)
def test_what_can_be_meant_is_left_to_the_grammar(word: str) -> None:
    arguments.explain_overrides([word, "trainer.total_epochs=1"])
    load_config(None, None, [word])


@pytest.mark.parametrize("name", OTHER_NAMES)
def test_names_of_other_trainers_lead_to_a_key(name: str) -> None:
    key = OTHER_NAMES[name]
    assert key in known_keys() or f"{key}.loss_mode" in known_keys()


def test_a_name_of_another_trainer_that_is_one_key_s_here_is_that_key() -> None:
    """Where the last part of a name is one key's, the table says nothing else."""
    for name, key in OTHER_NAMES.items():
        ends = [known for known in known_keys() if known.rpartition(".")[2] == name]
        if len(ends) == 1 and not name.startswith("path"):
            assert full_key(name) == ends[0] == key


@pytest.mark.parametrize("variable", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
@pytest.mark.parametrize("command", [["train"], ["sft"], ["eval", "m", "--data", "d"], ["compare", "--variants", "a"]])
def test_a_launcher_of_several_processes(
    variable: str, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = {"WORLD_SIZE": "torchrun", "OMPI_COMM_WORLD_SIZE": "mpirun"}[variable]
    monkeypatch.setenv(variable, "2")
    assert names(said(command, capsys)[1], f"{variable}=2", f"leave {launcher} out")
    monkeypatch.setenv(variable, "1")
    assert "processes" not in said(command, capsys)[1]


def test_an_error_of_the_system_has_its_place_and_a_remedy() -> None:
    error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/full/metrics.jsonl")
    assert names(arguments.explain_error(error), "/full/metrics.jsonl: ", "make room")
    assert arguments.explain_error(OSError("of no place")) == "of no place"
    assert arguments.explain_error(ValueError("as it is")) == "as it is"


def test_debug_shows_where_an_error_of_the_system_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EACCES, "Permission denied", "/x")

    monkeypatch.setattr("gspo.commands.report.read_curves", fails)
    with pytest.raises(PermissionError):
        main(["--debug", "report", "x"])


def test_the_options_are_those_of_the_parser() -> None:
    actions = [action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)]
    for command, options in arguments._OPTIONS.items():
        own = {text for action in actions[0].choices[command]._actions for text in action.option_strings}
        assert own - {"-h"} == set(options)
