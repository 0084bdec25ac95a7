"""`gspo compare`: the same task and seeds with several settings, run one after the other and laid side by side.

Each run is in OUT/runs/VARIANT-seed-S as any other does, and goes on where it was stopped; a finished one is not
run again. OUT/compare.json and OUT/compare.html are written after each run, from all that are finished.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gspo.config import Config, ConfigError, load_config, require_keys, require_supported
from gspo.config.paths import expanded
from gspo.config.printing import shown
from gspo.config.secrets import masked_text
from gspo.observe.report import FIGURES, Variant, build_comparison, print_comparison, read_curves
from gspo.trainer import train

__all__ = ["Job", "compare", "compare_command", "make_jobs", "parse_variant", "results", "summary"]

_FINISHED = "finished"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
# A comma that begins the next override; one within a value ([1,2]) is not followed by a key and an equals sign.
_BETWEEN = re.compile(r",(?=[+]*[A-Za-z_][\w.]*=)")
# What a comparison itself sets for each run.
_OWN_KEYS = ("trainer.seed", "trainer.default_local_dir", "trainer.experiment_name", "trainer.resume_mode")


@dataclass(frozen=True)
class Job:
    """One run of the comparison."""

    variant: str
    seed: int
    config: Config
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether it ran to its end before.

        Raises:
            ConfigError: its folder holds a run with other settings.
        """
        written = self.folder / "config.yaml"
        if written.exists() and shown(load_config(str(self.folder), "config", external=False)) != shown(self.config):
            raise ConfigError(
                f"{self.folder} holds a run with other settings (its config.yaml differs): name another folder with "
                "--out, or remove this one to run it again"
            )
        return (self.folder / _FINISHED).exists()

    def run(self) -> None:
        """Trains, from the newest checkpoint where there is one."""
        train(self.config)
        (self.folder / _FINISHED).touch()


def parse_variant(text: str) -> tuple[str, list[str]]:
    """NAME:key=value,key=value as a name and overrides; NAME alone is the base as it is.

    Raises:
        ConfigError: it cannot be read, or sets what the comparison itself sets.
    """
    name, _, rest = text.partition(":")
    overrides = _BETWEEN.split(rest) if rest else []
    if not _NAME.fullmatch(name) or not all("=" in override for override in overrides):
        raise ConfigError(
            f"--variants {masked_text(text)}: write NAME:key=value,key=value, as in "
            "grpo:actor_rollout_ref.actor.policy_loss=vanilla"
        )
    _refuse_own(overrides, f"--variants {masked_text(text)}")
    return name, overrides


def _refuse_own(overrides: Sequence[str], where: str) -> None:
    for override in overrides:
        key = override.partition("=")[0].lstrip("+")
        if key in _OWN_KEYS:
            raise ConfigError(f"{where}: {key} is set for each run: take it out (seeds are given by --seeds)", key)


def make_jobs(
    config_path: str | None,
    config_name: str | None,
    overrides: Sequence[str],
    variants: dict[str, list[str]],
    seeds: Sequence[int],
    out: Path,
) -> list[Job]:
    """Every run, seed by seed, so that all variants have the first seed before one has the second.

    Raises:
        ConfigError: a setting of any run cannot be used, found before the first of them begins.
    """
    _refuse_own(overrides, "overrides")
    jobs = []
    for seed in seeds:
        for name, own in variants.items():
            folder = out / "runs" / f"{name}-seed-{seed}"
            ours = [
                f"trainer.seed={seed}",
                f"trainer.experiment_name={folder.name}",
                "trainer.resume_mode=auto",
            ]
            place = {"trainer.default_local_dir": str(folder)}
            config = load_config(config_path, config_name, [*overrides, *own, *ours], place)
            require_keys(config, "actor_rollout_ref.model.path", "data.train_files")
            require_supported(config)
            jobs.append(Job(name, seed, config, folder))
    return jobs


def results(jobs: Sequence[Job]) -> list[Variant]:
    """The finished runs of each variant, by seed."""
    found: dict[str, dict[int, Any]] = {}
    for job in jobs:
        if (job.folder / _FINISHED).exists():
            found.setdefault(job.variant, {})[job.seed] = read_curves(job.folder)
    return [Variant(name, runs) for name, runs in found.items()]


def summary(variants: Sequence[Variant], settings: dict[str, list[str]]) -> dict[str, Any]:
    """What compare.json holds: for each variant its overrides, the figures of each run, their means and spreads."""
    return {
        variant.name: {
            "overrides": list(map(masked_text, settings[variant.name])),
            "runs": {
                str(seed): {"folder": str(run.folder), **{key: figure.read(run) for key, figure in FIGURES.items()}}
                for seed, run in variant.runs.items()
            },
            "mean": {key: variant.mean(key) for key in FIGURES},
            "spread": {key: variant.spread(key) for key in FIGURES},
        }
        for variant in variants
    }


def compare(jobs: Sequence[Job], settings: dict[str, list[str]], out: Path) -> list[Variant]:
    """Runs what is not finished, and writes compare.json and compare.html after each run.

    Args:
        jobs: the runs.
        settings: overrides of each variant, for the page.
        out: folder of the two files.
    """
    waiting = [job for job in jobs if not job.is_finished]
    for number, job in enumerate(waiting, start=1):
        print(f"\n{job.variant}, seed {job.seed} (run {number} of {len(waiting)})")
        job.run()
        _write(results(jobs), settings, out)
    variants = results(jobs)
    _write(variants, settings, out)
    return variants


def _write(variants: Sequence[Variant], settings: dict[str, list[str]], out: Path) -> None:
    text = json.dumps(summary(variants, settings), indent=2, ensure_ascii=False)
    (out / "compare.json").write_text(text + "\n", encoding="utf-8")
    listed = {name: ", ".join(map(masked_text, overrides)) for name, overrides in settings.items()}
    build_comparison(out / "compare.html", " / ".join(variant.name for variant in variants), variants, listed)


def compare_command(args: argparse.Namespace) -> int:
    """`gspo compare` with its parsed arguments."""
    settings = dict(map(parse_variant, args.variants))
    if len(settings) < len(args.variants):
        named = " ".join(map(masked_text, args.variants))
        raise ConfigError(f"--variants: two of {named} have the same name: give each its own")
    seeds = list(dict.fromkeys(args.seeds))
    out = expanded(args.out, "--out")
    jobs = make_jobs(args.config_path, args.config_name, args.overrides, settings, seeds, out)
    variants = compare(jobs, settings, out)
    title = f"mean ± standard deviation of {len(seeds)} seeds" if len(seeds) > 1 else "one seed"
    print_comparison(variants, title)
    print(f"page: {out / 'compare.html'}\nfigures: {out / 'compare.json'}")
    return 0
