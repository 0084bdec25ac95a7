"""This project against TRL: the same workload in turn, pair by pair, on the same weights and prompts.

    python benchmarks/vs_trl.py --setup runs/benchmarks/trl          # once: TRL's own environment
    python benchmarks/vs_trl.py --workload W1 --pairs 5

Each framework has a process that stays alive and sleeps while the other one works. First both compute the loss and the
gradient of one fixed set of responses, which must agree to float32 rounding. A warm-up step of each is not counted.
Prints one JSON line a pair and one with the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from loss_check import compare, make_groups, write_groups
from serving import Worker, environment
from step import shared_options
from workloads import WORKLOADS, Workload, prepare_apart, read_prompts

__all__ = ["main", "medians", "pair_line", "setup_commands"]

_HERE = Path(__file__).parent
_TORCH, _TRL = "torch==2.13.0", "trl==1.16.*"


def setup_commands(folder: Path, python: str = sys.executable) -> list[list[str]]:
    """What makes TRL's environment: torch first, so that the wheel this machine's index prefers is taken."""
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input"]
    return [
        [python, "-m", "venv", str(folder)],
        [*pip, _TORCH],
        [*pip, _TRL, "transformers", "accelerate", "datasets"],
    ]


def pair_line(trl: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """One pair: seconds of both and how many times faster this project is, per step and per sampled token."""
    return {
        "trl_s": trl["seconds"],
        "ours_s": ours["seconds"],
        "ratio": trl["seconds"] / ours["seconds"],
        "ratio_per_token": trl["seconds"] / trl["completion_tokens"] * ours["completion_tokens"] / ours["seconds"],
        "trl_phases_s": trl["phases"],
        "ours_phases_s": ours["phases"],
        "trl_tokens": trl["completion_tokens"],
        "ours_tokens": ours["completion_tokens"],
    }


def medians(pairs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of the pairs' figures; a ratio's is the median of the ratios."""

    def of(key: str) -> Any:
        values = [pair[key] for pair in pairs]
        if isinstance(values[0], dict):
            return {name: median(value[name] for value in values) for name in values[0]}
        return median(values)

    return {key: of(key) for key in pairs[0]}


def check(workload: Workload, work: Path, trl: Worker, ours: Worker) -> dict[str, Any]:
    """Loss and gradient norm of both on the same responses; raises where they differ."""
    words = [row["prompt"].split() for row in read_prompts(work / workload.name)]
    prompts = [[int(word.removeprefix("w")) for word in row] for row in words]
    file = work / workload.name / "check.json"
    write_groups(make_groups(prompts, workload.n, workload.max_tokens, workload.vocab_size), file)
    ours.ask(f"prepare-check {file}")
    return compare(ours.ask(f"check {file}"), trl.ask(f"check {file}"))


def run(options: argparse.Namespace) -> int:
    """The comparison."""
    workload, work = WORKLOADS[options.workload], options.work.resolve()
    python = options.trl / "bin" / "python"
    if not python.exists():
        print(f"{options.trl} holds no environment: run python benchmarks/vs_trl.py --setup {options.trl}")
        return 2
    prepare_apart(workload, work)
    env = environment(options.threads, options.wait_policy)
    theirs = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    shared = ["--workload", workload.name, "--work", str(work), "--threads", str(options.threads)]
    micro_batch = ["--micro-batch", str(options.trl_micro_batch)] if options.trl_micro_batch else []
    further = [part for text in options.further for part in ("--set", text)]
    with (
        Worker(
            "TRL", [str(python), str(_HERE / "trl_worker.py"), *shared, *micro_batch], work / "trl.log", theirs
        ) as trl,
        Worker(
            "gspo", [sys.executable, str(_HERE / "project_worker.py"), *shared, *further], work / "gspo.log", env
        ) as ours,
    ):
        agreement = check(workload, work, trl, ours)
        print(json.dumps({"check": agreement}), flush=True)
        for worker in (trl, ours):
            worker.ask("step")
        pairs, memory = [], {}
        for _ in range(options.pairs):
            replies = {name: worker.ask("step") for name, worker in (("trl", trl), ("ours", ours))}
            memory = {f"{name}_peak_memory_mb": reply["peak_memory_mb"] for name, reply in replies.items()}
            pairs.append(pair_line(replies["trl"], replies["ours"]))
            print(json.dumps(pairs[-1]), flush=True)
    summary = {"workload": workload.name, "pairs": len(pairs), "median": medians(pairs), **memory}
    summary["memory_ratio"] = memory["trl_peak_memory_mb"] / memory["ours_peak_memory_mb"]
    summary |= {"threads": options.threads, "wait_policy": options.wait_policy, "settings": options.further}
    print(json.dumps(summary))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare a step with TRL's.", parents=[shared_options()])
    parser.add_argument("--workload", choices=sorted(name for name in WORKLOADS if not WORKLOADS[name].discriminator))
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--setup", type=Path, metavar="DIR", help="make TRL's environment there, and stop")
    parser.add_argument("--trl", type=Path, default=Path("runs/benchmarks/trl"), help="TRL's environment")
    parser.add_argument(
        "--trl-micro-batch", type=int, help="TRL's responses per forward pass; left out: a whole mini-batch"
    )
    parser.add_argument(
        "--wait-policy", choices=("passive", "active"), default="passive", help="of idle OpenMP threads"
    )
    options = parser.parse_args(arguments)
    if options.setup is not None:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for command in setup_commands(options.setup):
            subprocess.run(command, check=True, env=env)
        return 0
    if options.workload is None:
        parser.error("--workload is needed, W1, W2 or W3 (or --setup DIR)")
    return run(options)


if __name__ == "__main__":
    raise SystemExit(main())
