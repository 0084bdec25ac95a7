"""What becomes of verl's settings here: read for what they ask of this project, and refused where they ask for more.

A run is refused with all reasons at once (`require_supported`), so that nobody takes out one key a try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import reduce
from importlib.util import find_spec
from typing import Any

from gspo.config.convert import show
from gspo.config.schema import Config
from gspo.config.settings import Settings
from gspo.config.verl_keys import TOPICS, Refusal, Row, is_verls, row_of, same, table
from gspo.methods import ADVANTAGES, ENGINES, loss_named

__all__ = ["adapted", "refusals", "translate", "without_effect"]

# verl's engines, for which the local one samples until one of that name is registered.
_ENGINES = ("vllm", "sglang", "hf", "trtllm", "naive")
# verl's trackers that are not here, with the one that serves in their place.
_TRACKERS: Mapping[str, str | None] = {
    "file": "jsonl",
    "tracking": "wandb",
    **dict.fromkeys(("mlflow", "swanlab", "vemlp_wandb", "clearml", "trackio", "rl_insight")),
}
_DEVICE, _LOGGER, _ENGINE = "trainer.device", "trainer.logger", "actor_rollout_ref.rollout.name"
_SHOWN = 2  # keys of a topic that a line names

# What is registered under a name that verl has too counts.
_REGISTERED: Mapping[str, Callable[[str], bool]] = {
    "algorithm.adv_estimator": lambda name: name in ADVANTAGES,
    "actor_rollout_ref.actor.policy_loss.loss_mode": lambda name: loss_named(name) is not None,
}


def translate(values: dict[str, Any], settings: Settings) -> tuple[list[str], list[Refusal]]:
    """Brings values of verl's to those of this project, in place.

    Args:
        values: settings by dotted key, without `${...}`; those that are refused and that the schema does not take are
            taken out.
        settings: where they come from.

    Returns:
        what there is to say, and what is refused. A loss or an advantage that is not registered stays for `refusals`.
    """
    refused = []
    for key in [key for key in table().values if key in values and key not in _REGISTERED]:
        if is_verls(key, values[key]):
            refused.append(_refusal(key, values.pop(key), table().values[key].text, settings.origins))
    notes = list(_trackers(values, bool(settings.foreign)))
    from_file = not settings.origins.get(_DEVICE, "").startswith(("override", "setting"))
    if settings.foreign and values.get(_DEVICE) == "cuda" and from_file:
        values[_DEVICE] = "auto"  # what each of verl's files has, chosen by nobody
    return notes, refused


def _trackers(values: dict[str, Any], of_verl: bool) -> Iterator[str]:
    """About loggers that are not here; in a configuration of verl's, whose default names wandb, also about that."""
    given = values.get(_LOGGER)
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list):
        return
    kept = list(dict.fromkeys(_TRACKERS.get(str(name), name) for name in names))
    if gone := [str(name) for name in names if str(name) in _TRACKERS and _TRACKERS[str(name)] is None]:
        yield f"{_LOGGER}: {', '.join(gone)} is not here: the same figures are in the run's metrics.jsonl"
    if of_verl and "wandb" in kept and find_spec("wandb") is None:
        kept.remove("wandb")
        yield (
            f"{_LOGGER} names wandb, which is not installed: figures go to the others. Install wandb before the run "
            "to send them there too"
        )
    values[_LOGGER] = [name for name in kept if name is not None]


def adapted(config: Config) -> tuple[Config, list[str]]:
    """The configuration with what runs in place of what verl runs, and what there is to say of that.

    Args:
        config: constructed, with engines of the user's registered; not resolved.
    """
    notes, rollout, trainer = [], config.actor_rollout_ref.rollout, config.trainer
    if rollout.name in _ENGINES and rollout.name not in ENGINES:
        notes.append(f"{_ENGINE}={rollout.name}: the local engine samples, on the trainer's own weights")
        rollout = replace(rollout, name="local")
    places = {"trainer.nnodes": trainer.nnodes, "trainer.n_gpus_per_node": trainer.n_gpus_per_node}
    if several := [f"{key}={number}" for key, number in places.items() if number > 1]:
        notes.append(f"{', '.join(several)}: this release trains in one process on one device, with the same updates")
        trainer = replace(trainer, nnodes=1, n_gpus_per_node=1)
    batch, sections = config.data.train_batch_size, (config.actor_rollout_ref.actor, config.critic)
    sizes = {section.key("ppo_mini_batch_size"): section.ppo_mini_batch_size for section in sections}
    if larger := [f"{key}={size}" for key, size in sizes.items() if size is not None and size > batch]:
        notes.append(f"{', '.join(larger)}: more prompts than data.train_batch_size={batch}, so that {batch} are taken")
    policy = replace(config.actor_rollout_ref, rollout=rollout)
    return replace(config, actor_rollout_ref=policy, trainer=trainer), notes


def refusals(foreign: Mapping[str, Any], config: Config, origins: Mapping[str, str]) -> Iterator[Refusal]:
    """What of a configuration would change the run and cannot be honoured.

    Args:
        foreign: verl's own keys, without `${...}` where one may be refused.
        config: resolved.
        origins: what set each key.
    """
    for key, value in foreign.items():
        if key.rpartition(".")[2] == "_target_":
            if not str(value).startswith("verl."):
                yield _refusal(key, value, "classes of your own are not built here: take it out", origins)
        elif (row := row_of(key)) is not None and row.kind == "refused" and not _asks_for_nothing(row, value, config):
            yield _refusal(key, value, row.text, origins)
    for key, is_registered in _REGISTERED.items():
        name = _value_of(config, key)
        if is_verls(key, name) and not is_registered(name):
            yield _refusal(key, name, table().values[key].text, origins)


def _asks_for_nothing(row: Row, value: Any, config: Config) -> bool:
    """Whether the value is one of the row's that ask for nothing, in this configuration."""
    for harmless in row.values():
        kind, _, key = harmless.partition(" ") if isinstance(harmless, str) else ("", "", "")
        if kind == "if" and key:
            found = bool(_value_of(config, key))
        else:
            found = same(value, _value_of(config, key) if kind == "=" else harmless)
        if found:
            return True
    return False


def _value_of(config: Config, key: str) -> Any:
    return reduce(getattr, key.split("."), config)


def _refusal(key: str, value: Any, reason: str, origins: Mapping[str, str]) -> Refusal:
    origin = origins.get(key, "a default")
    place = "" if origin.startswith("override ") else f" ({origin})"  # which an override says itself
    return Refusal(key, f"{key}={show(value)}{place}", reason)


def without_effect(keys: Iterable[str]) -> Iterator[str]:
    """What is to be said of verl's keys that do nothing here: one line for each topic.

    Args:
        keys: what the user has set, keys of the schema included.
    """
    topics: dict[str, list[tuple[str, Row]]] = {}
    for key in sorted(keys):
        row = None if key.rpartition(".")[2] in ("_target_", "_convert_", "_recursive_") else row_of(key)
        if row is not None and row.kind == "none" and row.argument != "off":
            topics.setdefault(row.argument, []).append((key, row))
    for topic, found in sorted(topics.items(), key=lambda item: list(TOPICS).index(item[0])):
        names = [key for key, _ in found]
        name, reason = TOPICS[topic]
        reasons = {row.reason for _, row in found}
        reason = reasons.pop() if len(reasons) == 1 else reason
        if len(names) == 1:
            yield f"key {names[0]} has no effect here: {reason}"
            continue
        rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        yield f"{len(names)} keys of {name} have no effect here ({', '.join(names[:_SHOWN])}{rest}): {reason}"
