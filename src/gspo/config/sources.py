"""YAML files and packaged presets, with their `defaults` lists, read into settings."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gspo.config.convert import ConfigError
from gspo.config.secrets import masked_text
from gspo.config.settings import Settings, takes_null
from gspo.config.texts import MOST_LEVELS

__all__ = ["find_source", "is_preset", "preset_names", "read_source"]

# libyaml's where PyYAML was built with it: ten times as fast.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Names that verl gives to one configuration for several of its engines.
_ALIASES = {"ppo_megatron_trainer": "ppo_trainer", "ppo_veomni_trainer": "ppo_trainer"}
_TAB = re.compile(r"^ *\t.*", re.MULTILINE)
_PRESETS = Path(str(resources.files("gspo.config"))) / "presets"


def preset_names() -> list[str]:
    """The names of the packaged presets."""
    return sorted(path.stem for path in _PRESETS.glob("*.yaml"))


def find_source(name: str, folder: Path | None) -> Path:
    """The file of a configuration name: FOLDER/NAME.yaml, or else the packaged preset of that name.

    Raises:
        ConfigError: there is neither; lists what there is.
    """
    stem = name.removesuffix(".yaml").removesuffix(".yml")
    candidates = [folder / f"{stem}{suffix}" for suffix in (".yaml", ".yml")] if folder else []
    for path in [*candidates, _PRESETS / f"{_ALIASES.get(stem, stem)}.yaml"]:
        if path.is_file():
            return path
    where = f"{candidates[0]} does not exist" if candidates else "no --config-path is given"
    raise ConfigError(f"{where}, and no preset is called {stem}; presets: {', '.join(preset_names())}")


def is_preset(path: Path) -> bool:
    """Whether the file is packaged rather than the user's."""
    return path.parent == _PRESETS


def read_source(path: Path, user_set: set[str], above: tuple[Path, ...] = ()) -> Settings:
    """The settings of a file with those of its `defaults` list: each entry over the one before, the file over all.

    Args:
        path: the YAML file; its keys are nested, dotted or both.
        user_set: receives the keys of files that are not packaged presets.
        above: the files whose `defaults` led here.

    Raises:
        ConfigError: the file is no YAML mapping, a key of it is unknown, or its `defaults` run in a circle.
    """
    if path in above:
        raise ConfigError(f"{path}: its defaults lead back to itself: {' -> '.join(p.stem for p in (*above, path))}")
    tree = _read_yaml(path)
    own = Settings()
    defaults = _default_names(tree.pop("defaults", None), path)
    for key, value in tree.items():
        own.put(str(key), value, f"preset {path.stem}" if is_preset(path) else str(path))
    if own.foreign:  # a configuration of verl's, which prints it as Python does, and whose null is "not set"
        own.values = {key: None if value == "None" else value for key, value in own.values.items()}
        own.values = {key: value for key, value in own.values.items() if value is not None or takes_null(key)}
    if not is_preset(path):
        user_set |= {*own.values, *own.foreign}
    settings = Settings()
    for name in defaults:
        settings.merge(own if name == "_self_" else _read_default(name, path, user_set, above))
    return settings


def _read_default(name: str, path: Path, user_set: set[str], above: tuple[Path, ...]) -> Settings:
    try:
        source = find_source(name, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: defaults: {error}") from None
    return read_source(source, user_set, (*above, path))


def _default_names(entries: Any, path: Path) -> list[str]:
    entries = [] if entries is None else entries
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError(
            f"{path}: defaults must be a list of names, as in `defaults: [gspo_gsm8k]`: presets, or YAML files "
            "next to it (Hydra's config groups are not read: of verl, give what it prints when a run starts, or its "
            "_generated_ppo_trainer.yaml)"
        )
    return entries if "_self_" in entries else [*entries, "_self_"]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        _check_levels(text)
        root = yaml.compose(text, Loader=_LOADER)
        _check_aliases(root)
        is_mapping = root is None or isinstance(root, yaml.MappingNode)
        tree = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if is_mapping else None
    except RecursionError as error:
        raise ConfigError(f"{path} is nested thousands of levels deep: write it flatter") from error
    except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        detail = masked_text(" ".join(str(error).split()))
        if isinstance(error, yaml.MarkedYAMLError) and (tabs := _TAB.findall(text)):
            detail = f"line {text[: text.index(tabs[0])].count(chr(10)) + 1} begins with a tab: YAML indents by spaces"
        raise ConfigError(f"{path} is not YAML that can be read: {detail}") from error
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must hold a mapping of keys to values, not a list or a single value")
    return {str(key): value for key, value in tree.items()}


def _check_levels(text: str) -> None:
    """Holds that a text has few levels, before it is composed: in tens of thousands libyaml ends the process.

    Raises:
        yaml.YAMLError: it has more; names the line.
    """
    level = 0
    for event in yaml.parse(text, Loader=_LOADER):
        level += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if level > MOST_LEVELS:
            line = event.start_mark.line + 1 if event.start_mark else "?"
            raise yaml.YAMLError(f"line {line} is nested more than {MOST_LEVELS} levels deep")


def _check_aliases(root: yaml.Node | None) -> None:
    """Holds that no alias leads back to a node above it, which no settings could hold.

    Raises:
        yaml.YAMLError: one does; names the line.
    """
    done: set[int] = set()
    waiting: list[tuple[yaml.Node, frozenset[int]]] = [] if root is None else [(root, frozenset())]
    while waiting:
        node, above = waiting.pop()
        if id(node) in above:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: an alias (*name) leads back to what it is in")
        if id(node) in done or not isinstance(node, yaml.CollectionNode):
            continue
        done.add(id(node))
        parts = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        waiting += [(part, above | {id(node)}) for part in parts]
