"""`config.yaml` of a run, and the records of the settings that its earlier steps were trained with.

`methods.json` beside it holds what a loss or an advantage of the user's own declares, for who reads the run without the
file that registers it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from gspo.checkpoint import replace_text
from gspo.config import Config, load_config, render
from gspo.config.printing import shown
from gspo.config.texts import first_line
from gspo.methods import Advantage, PolicyLoss, is_own, written_row

__all__ = ["differences", "trained_otherwise", "write_config", "write_methods"]

_CONFIG, _METHODS = "config.yaml", "methods.json"
_RECORD = re.compile(r"config-until-step-(\d+)\.yaml")
# Of `trainer`, what decides which numbers are trained; the rest says how the run is watched, kept and ended.
_TRAINS = ("trainer.seed", "trainer.critic_warmup", "trainer.gad_")
# Where something is; what it holds is compared by its fingerprint.
_PLACES = ("data.train_files", "data.val_files", "model.path", "model.tokenizer_path")

# Of these, what another run is told by where nothing has been read yet.
_IDENTITY = ("data.train_files", "model.path")


def write_config(folder: Path, config: Config, step: int | None) -> list[str]:
    """Writes `config.yaml`, once it is sure that steps are trained with it.

    Settings that steps up to `step` were trained with and that differ are kept in `config-until-step-N.yaml`, once: a
    second resume from the same step leaves that record as it is. Records of later steps, of a continuation that is
    given up, are renamed.

    Args:
        folder: the run's.
        config: the resolved configuration.
        step: the step that the run goes on from; None for a new run.

    Returns:
        what differs, to be said.

    Raises:
        CheckpointError: the disk does not take it.
    """
    file = folder / _CONFIG
    lines: list[str] = []
    if step is not None:
        lines += _keep_earlier(folder, config, step)
        for at, record in _records(folder).items():
            if at > step:
                record.rename(_free(folder, f"config-until-step-{at}.given-up"))
    replace_text(file, render(config))
    return lines


def write_methods(folder: Path, config: Config) -> None:
    """Writes what a loss or an advantage of the user's own declares, where the run has one.

    Raises:
        CheckpointError: the disk does not take it.
    """
    rows: dict[str, PolicyLoss | Advantage] = {"policy_loss": config.loss_facts, "advantage": config.advantage_facts}
    own = {kind: written_row(row) for kind, row in rows.items() if is_own(row)}
    if own:
        replace_text(folder / _METHODS, json.dumps(own, indent=2) + "\n")
    else:
        (folder / _METHODS).unlink(missing_ok=True)


def _keep_earlier(folder: Path, config: Config, step: int) -> list[str]:
    before = _trained_with(folder, step)
    if before is None:
        return []
    try:
        changed = _changes(before, config)
    except ValueError as error:
        aside = _free(folder, "config-unreadable")
        before.rename(aside)
        return [f"{before} could not be read ({first_line(error)}); it is kept in {aside.name}"]
    if not changed:
        return []
    kept = folder / f"config-until-step-{step}.yaml"
    if kept != before:
        replace_text(kept, before.read_text(encoding="utf-8"))
    listed = "; ".join(changed.values())
    return [f"resumed with other settings (the earlier ones are in {kept.name}): {listed}"]


def trained_otherwise(folder: Path, config: Config, step: int) -> str:
    """What of the settings that the steps up to `step` were trained with differs, where it changes what is trained."""
    before = _trained_with(folder, step)
    if before is None:
        return ""
    try:
        changed = _changes(before, config)
    except ValueError:  # it says nothing of the run, which is done
        return ""
    return "; ".join(line for key, line in changed.items() if _trains(key))


def differences(folder: Path, config: Config, objects: Collection[str] = ()) -> dict[str, str]:
    """Key -> a line, for each setting that makes a run with this configuration another one than that of a folder.

    Files and models count by their place; how a run is watched, measured, kept and ended does not.

    Args:
        folder: of a run.
        config: the resolved configuration.
        objects: keys that do not count, as an object was given in place of what they name.
    """
    file = folder / _CONFIG
    try:
        changed = _changes(file, config)
    except (ValueError, OSError) as error:
        return {_CONFIG: f"{file} cannot be read: {first_line(error)}"}
    return {
        key: line
        for key, line in changed.items()
        if key not in objects and "val_" not in key and (_trains(key) or key.endswith(_IDENTITY))
    }


def _trains(key: str) -> bool:
    return (not key.startswith("trainer.") or key.startswith(_TRAINS)) and not key.endswith(_PLACES)


def _trained_with(folder: Path, step: int) -> Path | None:
    """The settings of the steps up to `step`: the first record that reaches it, or the configuration."""
    reaching = [at for at in _records(folder) if at >= step]
    if reaching:
        return _records(folder)[min(reaching)]
    file = folder / _CONFIG
    return file if file.exists() else None


def _records(folder: Path) -> dict[int, Path]:
    matches = ((_RECORD.fullmatch(path.name), path) for path in folder.iterdir())
    return {int(match[1]): path for match, path in matches if match}


def _free(folder: Path, stem: str) -> Path:
    number = 1
    while (path := folder / f"{stem}-{number}.yaml").exists():
        number += 1
    return path


def _changes(file: Path, config: Config) -> dict[str, str]:
    """Key -> a line, for each that differs."""
    earlier = load_config(str(file.parent), file.stem, external=False)
    before, after = (_flat(shown(each)) for each in (earlier, config))
    return {
        key: f"{key}: {before.get(key)} -> {after.get(key)}"
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    }


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """A tree of mappings by dotted keys."""
    if not isinstance(tree, dict) or not tree:
        return {prefix.removesuffix("."): tree}
    return {name: value for key, child in tree.items() for name, value in _flat(child, f"{prefix}{key}.").items()}
