"""A run folder as the report reads it: curves by metric, samples, config."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from gspo.methods import ADVANTAGES, DEFAULT_ADVANTAGE, DEFAULT_LOSS, PolicyLoss, loss_named
from gspo.observe.jsonl import read_jsonl
from gspo.observe.report.verl_files import metric_records, verl_samples

__all__ = ["Curve", "Run", "read_curves"]

_HELD_OUT = re.compile(r"val-core/(?P<source>.+)/acc/(?P<figure>mean@\d+)")
_END_SHARE = 0.1  # the first and the last tenth of a noisy curve stand for its start and its end


@dataclass(frozen=True)
class Curve:
    """One metric over the steps that logged it. What was not finite is NaN."""

    steps: tuple[int, ...]
    values: tuple[float, ...]

    @property
    def finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]

    def ends(self) -> tuple[float, float]:
        """Means of the first and of the last tenth, for a curve with at least one finite value."""
        values = self.finite
        part = max(1, round(_END_SHARE * len(values)))
        return mean(values[:part]), mean(values[-part:])


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    folder: Path
    curves: dict[str, Curve]
    samples: list[dict[str, Any]]
    config_text: str
    config: dict[str, Any]

    @property
    def loss(self) -> PolicyLoss:
        """What is known of the policy loss.

        One of the user's own is known in the process that trained with it only. Elsewhere, and where the folder has no
        config, the metrics say whether it clips whole sequences.
        """
        setting = self.setting("actor_rollout_ref.actor.policy_loss", "the policy loss")
        name = str(setting.get("loss_mode", DEFAULT_LOSS) if isinstance(setting, dict) else setting)
        return loss_named(name) or PolicyLoss(name, sequence_clip=self.has("actor/seq_clipfrac"))

    @property
    def held_out(self) -> dict[str, Curve]:
        """Held-out accuracy by data source."""
        found = {name: _HELD_OUT.fullmatch(name) for name in self.curves}
        return {match["source"]: self.curves[name] for name, match in found.items() if match and self.has(name)}

    def has(self, name: str) -> bool:
        """Whether a metric has at least one finite value."""
        return name in self.curves and bool(self.curves[name].finite)

    def setting(self, path: str, default: Any = None) -> Any:
        """The config's value at a dotted path."""
        node: Any = self.config
        for key in path.split("."):
            if not isinstance(node, dict) or node.get(key) is None:
                return default
            node = node[key]
        return node

    @property
    def is_supervised(self) -> bool:
        """Whether the run learned from given answers only."""
        return self.has("train/loss") and not self.has("critic/score/mean")

    @property
    def compares_groups(self) -> bool:
        """Whether the advantage compares the responses of a prompt, so that equal rewards teach nothing."""
        alone = self.setting("actor_rollout_ref.rollout.n") == 1
        advantage = ADVANTAGES.get(str(self.setting("algorithm.adv_estimator", DEFAULT_ADVANTAGE)))
        return not alone and (advantage is None or advantage.compares_groups)

    def updates_per_rollout(self) -> int | None:
        """Optimizer steps on each batch of rollouts; None where the config does not tell."""
        prompts = self.setting("data.train_batch_size")
        mini_batch = self.setting("actor_rollout_ref.actor.ppo_mini_batch_size")
        if not isinstance(prompts, int) or not isinstance(mini_batch, int) or mini_batch < 1:
            return None
        return math.ceil(prompts / mini_batch) * int(self.setting("actor_rollout_ref.actor.ppo_epochs", 1))


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def read_curves(place: Path) -> Run:
    """Reads a run folder, of this package or of verl (`gspo.observe.report.verl_files`), or a file of its metrics.

    Raises:
        ValueError: the folder has no `metrics.jsonl`, or one of its files cannot be read.
    """
    folder, records = metric_records(place)
    points: dict[str, dict[int, float]] = {}
    for record in records:
        for name, value in record.items():
            if name != "step":
                points.setdefault(name, {})[record["step"]] = math.nan if value is None else float(value)
    curves = {name: Curve(tuple(values), tuple(values.values())) for name, values in points.items()}
    config_file = folder / "config.yaml"
    text = config_file.read_text(encoding="utf-8") if config_file.exists() else ""
    try:
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False) if text.strip() else {}
    except yaml.YAMLError as error:
        raise ValueError(f"{config_file} is not YAML; restore it or remove it: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{config_file} is not a mapping of keys; it should be the resolved config of the run")
    samples = read_jsonl(folder / "samples.jsonl") or verl_samples(folder)
    return Run(folder, curves, samples, text, {str(key): config[key] for key in config})
