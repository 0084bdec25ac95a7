"""Command lines that cannot be read, each answered by what to type: misspelt commands, options that are keys here,
files named without an option, and what shells, word processors and other systems do to a pasted command."""

from __future__ import annotations

import argparse
import errno
import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from gspo.shell import gspo_command

__all__ = ["Parser", "explain_config_files", "explain_error", "explain_overrides", "explain_unknown", "without_names"]

_TYPOGRAPHIC_QUOTES = "“”„‟‘’‚‛«»"
_DASHES = "–—−"
_NO_BREAK_SPACE = "\u00a0"
# The options of the commands with a configuration.
_OWN = ("--config-path", "--config-name", "--help")
_OPTIONS = {
    "train": _OWN,
    "sft": _OWN,
    "config": (*_OWN, "--set-only", "--flat"),
    "compare": (*_OWN, "--variants", "--seeds", "--out"),
}
_YAML = (".yaml", ".yml")
_DATA = (".parquet", ".json", ".jsonl", ".csv")
_NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")
# Words that are tried in place of a command, and the option or command that they mean.
_MEANT = {
    "help": "--help",
    "version": "--version",
    "fit": "train",
    "run": "train",
    "finetune": "sft",
    "test": "eval",
    "csv": "jsonl",
    "parquet": "jsonl",
}


class Parser(argparse.ArgumentParser):
    """A parser whose options are written out, and which names the nearest command to one that there is not."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2: the usage, and what is wrong, with the remedy where there is one."""
        found = re.search(r"argument (\w+): invalid choice: '([^']*)'.*\(choose from (.*)\)", message)
        if found and found[1] in ("COMMAND", "KIND"):
            choices = re.findall(r"[\w-]+", found[3])
            message = _no_such_command(self.prog.partition(" ")[2], found[2], choices)
        elif "required: COMMAND" in message or "required: KIND" in message:
            message += f": `{gspo_command(*self.prog.split()[1:], '--help')}` lists them"
        super().error(message)


def _no_such_command(above: str, word: str, choices: Sequence[str]) -> str:
    meant = _MEANT.get(word, "")
    is_there = meant in choices or (meant.startswith("-") and not above)
    near = [meant] if is_there else get_close_matches(word, choices, n=1, cutoff=0.5)
    words = above.split()
    hint = f"did you mean `{gspo_command(*words, near[0])}`? There" if near else "there"
    return f"there is no command {' '.join([*words, word])}: {hint} are {', '.join(choices)}"


def explain_unknown(command: str, unknown: Sequence[str], words: Sequence[str]) -> str:
    """What to type for arguments that a command does not take.

    Args:
        command: its name.
        unknown: the arguments, as they were typed.
        words: all the arguments.
    """
    option, _, given = unknown[0].partition("=")
    if command in _OPTIONS and option.startswith("-"):
        behind = words[words.index(unknown[0]) + 1 :][:1]
        value = given or next((word for word in behind if not word.startswith("-") and "=" not in word), None)
        return f"there is no option {option}{_in_place_of_option(option, value, _OPTIONS[command])}"
    from gspo.config.secrets import masked_text

    lists = gspo_command(command, "--help")
    return f"unrecognized arguments: {' '.join(map(masked_text, unknown))}; `{lists}` lists what there is"


def _in_place_of_option(option: str, value: str | None, options: Sequence[str]) -> str:
    """What to type in place of an option that a command with a configuration does not have."""
    name = option.lstrip("-").replace("-", "_")
    if near := get_close_matches(option, options, n=1, cutoff=0.8):
        return f": did you mean {near[0]}?"
    if value is None and name in ("set", "override", "overrides"):
        return ": take it out, settings are written without one, as key=value"
    if value is not None and value.endswith(_YAML):
        return f": {_named_by_options(Path(value))}"
    from gspo.config.convert import ConfigError
    from gspo.config.other_names import key_elsewhere
    from gspo.config.secrets import masked_text
    from gspo.config.settings import full_key

    try:
        key = (None if "." in name else key_elsewhere(name)) or full_key(name)
    except ConfigError as error:
        return f"; a setting is written key=value, without dashes: {error}"
    written = masked_text(f"{key}={value or 'VALUE'}")
    return f": a setting is written key=value, without dashes: {written}"


def explain_overrides(words: Sequence[str], names: bool = False) -> None:
    """Refuses what no override can be, before the grammar of overrides is asked.

    Args:
        words: the command's `key=value` words, as the shell delivers them.
        names: whether names of sections and keys may stand among them.

    Raises:
        ValueError: one cannot be meant as it stands; says what to type.
    """
    for number, word in enumerate(words):
        problem = _spoiled(word) or _spaced(word, words[number + 1 :])
        if problem := problem or (None if names and _NAME.fullmatch(word) else _no_setting(word)):
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
    if word[0] in _DASHES:
        return f"{word} begins with a dash that is no hyphen, as word processors write it: type -- in its place"
    if word[0] in _TYPOGRAPHIC_QUOTES or (equals and value[:1] and value[0] in _TYPOGRAPHIC_QUOTES):
        return f"{word} has typographic quotes, which a shell takes for letters: type straight ones, ' or \""
    if _NO_BREAK_SPACE in key:
        return f"{key.replace(_NO_BREAK_SPACE, ' ')!r} has a no-break space, as web pages have them: type a plain one"
    if word.endswith(",") and not re.search(r"[\[{\"']", value):
        return f"{word} ends with a comma: overrides are parted by spaces, so take it out"
    return None


def _spaced(word: str, behind: Sequence[str]) -> str | None:
    """Spaces around the sign, which make several arguments of one setting, and signs of other languages."""
    following = behind[0] if behind else None
    if following is not None and following.startswith("=") and "=" not in word:
        value = following[1:] or (behind[1] if len(behind) > 1 else "VALUE")
        return f"{word} {following} ...: write {word}={value} without spaces around the ="
    if re.match(r"[\w.]+(==|:=)", word):
        return f"{word}: write {re.sub('==|:=', '=', word, count=1)}, with one ="
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


def without_names(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of sections and keys among the words of `gspo config`, and the overrides."""
    found = [word for word in words if _NAME.fullmatch(word)]
    return found, [word for word in words if word not in found]


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


_REMEDIES = {
    errno.EACCES: "give yourself the right to it, or name another place",
    errno.EPERM: "give yourself the right to it, or name another place",
    errno.EROFS: "name a place that can be written to",
    errno.ENOSPC: "make room, or name another place",
    errno.ENOENT: "see whether the path is the one that is meant",
    errno.ENAMETOOLONG: "shorten the name",
}


def explain_error(error: ValueError | OSError) -> str:
    """An error as it is printed: one of the system's with its place in front and what to do behind, as our own are."""
    if not isinstance(error, OSError) or error.filename is None:
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, "name another place")
    return f"{error.filename}: {error.strerror}: {remedy}"
