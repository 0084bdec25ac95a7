"""From files and overrides to a Config: defaults <- presets <- YAML <- overrides."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import reduce
from operator import getitem
from typing import Any

from gspo.config.convert import ConfigError
from gspo.config.external import require_methods, run_files
from gspo.config.fields import children, leaves, to_dict
from gspo.config.interpolation import resolved
from gspo.config.overrides import apply_overrides
from gspo.config.paths import expanded
from gspo.config.resolve import resolve
from gspo.config.schema import Config
from gspo.config.settings import Settings, full_key
from gspo.config.sources import find_source, is_preset, read_source
from gspo.config.verl import adapted, refusals, translate

__all__ = ["load_config"]


def load_config(
    config_path: str | None = None,
    config_name: str | None = None,
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    base: Config | None = None,
    external: bool = True,
) -> Config:
    """The configuration of a run.

    Files of the user's own losses and advantages (`algorithm.external_modules`) are run, so that their names are known
    and what they declare (`gspo.algorithms.register_policy_loss`) fills what the user left open.

    Args:
        config_path: folder of the YAML file, relative to the working directory.
        config_name: name of a file in it, or of a packaged preset, with or without `.yaml`.
        overrides: `key=value` in Hydra's grammar.
        settings: keys, or sections of keys, to values of Python; over everything else. A name without a dot is that of
            the one key that ends in it (`full_key`).
        base: a configuration that the others are laid over, in place of the defaults. What it has resolved stays.
        external: false to read what a run has written: nothing of the user's is run, and a loss or an advantage may
            have a name that is not known.

    Raises:
        ConfigError: something cannot be used; names the key, where it was set, and the fix.
    """
    base = base or Config()
    composed, user_set, notes = Settings(), set(base.user_set), list(base.notes)
    if config_name is not None:
        source = find_source(config_name, expanded(config_path, "--config-path") if config_path else None)
        composed = read_source(source, user_set)
        if config_path and is_preset(source):
            notes.append(f"{config_path} has no {source.name}: the packaged preset {source.stem} is used")
    elif config_path is not None:
        raise ConfigError(f"--config-path {config_path} needs --config-name, the name of a file in it without .yaml")
    apply_overrides(composed, overrides, user_set)
    given = Settings()
    for name, value in (settings or {}).items():
        given.put(full_key(name), value, f"setting {name}")
    composed.merge(given)
    user_set |= {*given.values, *given.foreign}
    tree = copy.deepcopy(to_dict(base))
    with _origins(composed):
        values, foreign = resolved(composed, tree)
        said, refused = translate(values, composed)
        config = _construct(Config, _overlaid(tree, values))
    if external:
        run_files(config.algorithm.external_modules)
    with _origins(composed):
        if external:
            require_methods(config)
        config, adaptations = adapted(config)
        config = resolve(config)
    earlier = [one for one in base.refused if one.key not in composed.origins]
    return replace(
        config,
        user_set=frozenset(user_set),
        notes=(*notes, *said, *adaptations),
        refused=(*earlier, *refused, *refusals(foreign, config, composed.origins)),
    )


@contextmanager
def _origins(settings: Settings) -> Iterator[None]:
    """Adds to an error where its key was set."""
    try:
        yield
    except ConfigError as error:
        origin = settings.origins.get((error.key or "").partition("[")[0])
        raise ConfigError(f"{error} ({origin})" if origin else str(error), error.key) from None


def _overlaid(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The whole tree with settings laid over it, in place."""
    for key, value in values.items():
        *path, name = key.split(".")
        reduce(getitem, path, tree)[name] = value
    return tree


def _construct(kind: type[Any], tree: Mapping[str, Any]) -> Any:
    values = {name: tree[name] for name in leaves(kind)}
    return kind(**values, **{name: _construct(child, tree[name]) for name, child in children(kind).items()})
