"""Command lines that cannot be read, each answered by what to type: misspelt commands, options that are keys here,
files named without an option, and what shells, word processors and other systems do to a pasted command."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import zip_longest
from pathlib import Path
from typing import Any, NoReturn

from gspo.shell import gspo_command

__all__ = ["Parser", "explain_config_files", "explain_option", "explain_overrides"]

_TYPOGRAPHIC_QUOTES = "“”„‟‘’‚‛«»"
_DASHES = "–—−"
_NO_BREAK_SPACE = "\u00a0"
_YAML = (".yaml", ".yml")
_DATA = (".parquet", ".json", ".jsonl", ".csv")
# Words that are tried in place of a command, and the option or command that they mean.
_MEANT = {"help": "--help", "version": "--version", "fit": "train", "finetune": "sft", "test": "eval", "run": "train"}


class Parser(argparse.ArgumentParser):
    """A parser whose options are written out, and which names the nearest command to one that there is not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2: the usage, and what is wrong, with the remedy where there is one."""
        found = re.search(r"argument (\w+): invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found and found[1] in ("COMMAND", "KIND"):
            choices = re.findall(r"[\w-]+", found[3])
            message = _no_such_command(self.prog.partition(" ")[2], found[2], choices)
        elif "required: COMMAND" in message or "required: KIND" in message:
            message += f": `{gspo_command(*self.prog.split()[1:], '--help')}` lists them"
        super().error(message)


def _no_such_command(above: str, word: str, choices: Sequence[str]) -> str:
    near = [_MEANT[word]] if not above and word in _MEANT else get_close_matches(word, choices, n=1, cutoff=0.5)
    words = above.split()
    hint = f"did you mean `{gspo_command(*words, near[0])}`? " if near else ""
    return f"there is no command {' '.join([*words, word])}: {hint}The commands: {', '.join(choices)}"


def explain_option(option: str, value: str | None, options: Sequence[str]) -> str:
    """What to type for an option that a command with a configuration does not have.

    Args:
        option: as it was typed, with `--` and without a value.
        value: what stood behind it, or behind its `=`.
        options: those of the command.
    """
    name = option.lstrip("-").replace("-", "_")
    if near := get_close_matches(option, options, n=1, cutoff=0.8):
        return f"there is no option {option}: did you mean {near[0]}?"
    if value is not None and value.endswith(_YAML):
        return f"there is no option {option}: {_named_by_options(Path(value))}"
    from gspo.config.convert import ConfigError
    from gspo.config.other_names import key_elsewhere
    from gspo.config.secrets import masked_text
    from gspo.config.settings import full_key

    try:
        key = key_elsewhere(name) if "." not in name else None
        key = key or full_key(name)
    except ConfigError as error:
        return f"there is no option {option}; a setting is written key=value, without dashes: {error}"
    written = masked_text(f"{key}={'VALUE' if value is None else value}")
    return f"there is no option {option}: a setting is written key=value, without dashes: {written}"


def explain_overrides(words: Sequence[str]) -> None:
    """Refuses what no override can be, before the grammar of overrides is asked.

    Args:
        words: the command's `key=value` words, as the shell delivers them.

    Raises:
        ValueError: one cannot be meant as it stands; says what to type.
    """
    for word, following in zip_longest(words, words[1:]):
        if problem := _spoiled(word) or _spaced(word, following) or _no_setting(word):
            raise ValueError(problem)


def _spoiled(word: str) -> str | None:
    """What an editor, another system or a shell has done to a word."""
    if not word.strip():
        return (
            "an argument is blank: behind a backslash that continues a line there is a space, which ends the command "
            "there; take it out"
        )
    if "\r" in word:
        return (
            f"{word.strip()!r} ends with a carriage return: the script has the line ends of Windows; convert it, as by "
            "sed -i 's/\\r$//' SCRIPT"
        )
    key, equals, value = word.partition("=")
    if key[0] in _DASHES:
        return f"{word} begins with a dash that is no hyphen, as word processors write it: type -- in its place"
    if key[0] in _TYPOGRAPHIC_QUOTES or (equals and value[:1] and value[0] in _TYPOGRAPHIC_QUOTES):
        return f"{word} has typographic quotes, which a shell takes for letters: type straight ones, ' or \""
    if _NO_BREAK_SPACE in key:
        return f"{key.replace(_NO_BREAK_SPACE, ' ')!r} has a no-break space, as web pages have them: type a plain one"
    if word.endswith(",") and not re.search(r"[\[{\"']", value):
        return f"{word} ends with a comma: overrides are parted by spaces, so take it out"
    return None


def _spaced(word: str, following: str | None) -> str | None:
    """Spaces around the sign, which make several arguments of one setting."""
    if following is not None and following.startswith("=") and "=" not in word:
        return f"{word} {following} ...: write {word}={following[1:] or 'VALUE'} without spaces around the ="
    if word.startswith("="):
        return f"{word} has no key before its =: write key=value without spaces around the ="
    if word.endswith("=") and following is not None and re.fullmatch(r"[^=~+-][^=]*", following):
        return f"{word} {following}: write {word}{following} without a space behind the ="
    if following is not None and re.fullmatch(r"[\w.]+:", word) and "=" not in following:
        return f"{word} {following}: that is YAML; on the command line it is {word[:-1]}={following}"
    return None


def _no_setting(word: str) -> str | None:
    """A word without a `=`, which sets nothing; `~key` takes a key back."""
    if word.startswith("{"):
        return f"{word} is a mapping: write each of its keys as KEY=VALUE"
    if "=" in word or word.startswith("~"):
        return None
    if mapping := re.fullmatch(r"([\w.]+):\s+(.*)", word):
        return f"{word!r} is YAML: on the command line it is {mapping[1]}={mapping[2]}"
    from gspo.config.secrets import masked_text
    from gspo.config.sources import preset_names

    shown = masked_text(word)
    if word.endswith(_YAML):
        return f"{word} is no setting: {_named_by_options(Path(word))}"
    if word in preset_names():
        return f"{word} is no setting: the preset of that name is read by --config-name {word}"
    if word.endswith(_DATA):
        return f"{word} is no setting: write data.train_files={word}"
    if Path(word).is_dir():
        return f"{word} is no setting: a model's folder is named by actor_rollout_ref.model.path={word}"
    return f"{shown} has no value: write {shown}=VALUE"


def explain_config_files(config_path: str | None, config_name: str | None) -> None:
    """Refuses a file where `--config-path` takes its folder, or `--config-name` its name.

    Raises:
        ValueError: the two options are to be written otherwise; says how.
    """
    if config_path is not None and config_path.endswith(_YAML) and not Path(config_path).is_dir():
        raise ValueError(f"--config-path {config_path} is a file: {_named_by_options(Path(config_path))}")
    if config_path is None and config_name is not None:
        file = next((Path(config_name + end) for end in ("", *_YAML) if Path(config_name + end).is_file()), None)
        if file is not None and (file.suffix in _YAML):
            raise ValueError(f"--config-name {config_name} lacks the file's folder: {_named_by_options(file)}")


def _named_by_options(file: Path) -> str:
    return f"a file is named by --config-path {file.parent} --config-name {file.stem}"
