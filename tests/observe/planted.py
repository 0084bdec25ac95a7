"""Made-up runs, each with one thing wrong with it, or nothing: rows of metrics as a run logs them, and their folder."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

__all__ = ["ACCURACY", "adversarial_rows", "config", "folder_of", "rows"]

ACCURACY = "val-core/s/acc/mean@1"
Row = dict[str, float | None]


def config(**settings: Any) -> dict[str, Any]:
    """The resolved configuration of a GSPO run of four optimizer steps per rollout, with keys of it replaced."""
    keys: dict[str, Any] = {
        "actor_rollout_ref.model.path": "tiny/model",
        "actor_rollout_ref.actor.policy_loss.loss_mode": "gspo",
        "actor_rollout_ref.actor.clip_ratio_low": 0.0003,
        "actor_rollout_ref.actor.clip_ratio_high": 0.0004,
        "actor_rollout_ref.actor.ppo_mini_batch_size": 16,
        "actor_rollout_ref.actor.ppo_epochs": 1,
        "actor_rollout_ref.actor.use_kl_loss": False,
        "actor_rollout_ref.actor.kl_loss_coef": 0.001,
        "actor_rollout_ref.actor.optim.lr": 1e-6,
        "actor_rollout_ref.rollout.n": 8,
        "algorithm.adv_estimator": "grpo",
        "data.train_batch_size": 64,
        "data.max_response_length": 512,
    }
    tree: dict[str, Any] = {}
    for path, value in {**keys, **{key.replace("__", "."): value for key, value in settings.items()}}.items():
        *parents, last = path.split(".")
        node = tree
        for name in parents:
            node = node.setdefault(name, {})
        node[last] = value
    return tree


def rows(
    num_steps: int,
    success: Callable[[float], float],
    change: Callable[[int, Row], Mapping[str, float | None]] = lambda *_: {},
    every: int = 10,
) -> list[Row]:
    """A healthy run's rows from step 0, a validation, on.

    Args:
        num_steps: training steps.
        success: the chance that a response is right, from the part of the run that is done.
        change: (step, row) -> what is otherwise in that step.
        every: steps between validations.
    """
    draw = random.Random(0)
    found: list[Row] = [{"step": 0, ACCURACY: success(0.0)}]
    for step in range(1, num_steps + 1):
        chance = success(step / num_steps)
        right, wrong = chance**8, (1 - chance) ** 8
        reward = min(1.0, max(0.0, draw.gauss(chance, math.sqrt(chance * (1 - chance) / 512))))
        row: Row = {
            "step": step,
            "critic/score/mean": reward,
            "critic/score/min": 0.0,
            "critic/score/max": 1.0,
            "group/zero_spread": right + wrong,
            "group/all_right": right,
            "group/all_wrong": wrong,
            "response_length/mean": draw.gauss(200, 4),
            "response_length/clip_ratio": 0.01,
            "actor/pg_clipfrac": 0.15 * (1 - right - wrong),
            "actor/seq_clipfrac": 0.15 * (1 - right - wrong),
            "actor/ppo_kl": draw.gauss(0.0005, 0.0002),
            "actor/entropy": draw.gauss(0.8 - 0.3 * step / num_steps, 0.01),
            "actor/grad_norm": draw.gauss(1.0, 0.1),
            "actor/lr": 1e-6,
        }
        if step % every == 0:
            row[ACCURACY] = chance
        found.append({**row, **change(step, row)})
    return found


def adversarial_rows(accuracy: float, warmup: int = 20, alone: int = 5, adversarial: int = 60) -> list[Row]:
    """A GAD run: warmup on the teacher's text, the discriminator alone, then the game, with its accuracy there."""
    draw = random.Random(1)
    found: list[Row] = []
    for step in range(1, warmup + alone + adversarial + 1):
        stage = 0 if step <= warmup else 1 if step <= warmup + alone else 2
        row: Row = {
            "step": step,
            "training/gad_stage": float(stage),
            "critic/d_acc": draw.gauss(accuracy if stage == 2 else 0.75, 0.01),
            "critic/d_loss": 0.4,
            "critic/margin": 1.0,
            "critic/teacher_value_mean": 0.8,
            "critic/student_value_mean": -0.2,
            "critic/length_acc": 0.52,
            "response_length/mean": 100.0,
            "response_length/clip_ratio": 0.0,
        }
        if stage == 0:
            row |= {"train/loss": 2.0 - step / warmup, "actor/grad_norm": 50.0}
        if stage == 2:
            row |= {
                "critic/score/mean": draw.gauss(0.0, 0.2),
                "actor/entropy": 0.9,
                "actor/grad_norm": 1.0,
                "actor/ppo_kl": 0.0005,
                "actor/pg_clipfrac": 0.15,
                "group/zero_spread": 0.0,
                "group/all_right": 0.0,
                "group/all_wrong": 0.0,
            }
        if step in (1, warmup, warmup + alone + adversarial):
            row["val-aux/gad/rouge_l"] = 0.2 + 0.2 * step / (warmup + alone + adversarial)
        found.append(row)
    return found


def folder_of(folder: Path, found: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> Path:
    """Writes a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(settings)), encoding="utf-8")
    return folder
