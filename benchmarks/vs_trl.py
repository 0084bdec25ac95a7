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
from typing import Any

import pairs
from loss_check import compare, make_groups, write_groups
from serving import Worker, environment
from step import shared_options
from workloads import WORKLOADS, Workload, prepare_apart, read_token_ids

__all__ = ["check", "main", "setup_commands"]

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


def check(workload: Workload, work: Path, theirs: Worker, ours: Worker) -> dict[str, Any]:
    """Loss and gradient norm of both on the same responses; raises where they differ."""
    file = work / workload.name / "check.json"
    prompts = read_token_ids(work / workload.name)
    write_groups(make_groups(prompts, workload.n, workload.max_tokens, workload.vocab_size), file)
    ours.ask(f"prepare-check {file}")
    return compare(ours.ask(f"check {file}"), theirs.ask(f"check {file}"))


def run(options: argparse.Namespace) -> int:
    """The comparison."""
    workload, work = WORKLOADS[options.workload], options.work.resolve()
    python = options.trl / "bin" / "python"
    if not python.exists():
        print(f"{options.trl} holds no environment: run python benchmarks/vs_trl.py --setup {options.trl}")
        return 2
    prepare_apart(workload, work)
    env = environment(options.threads, options.wait_policy)
    without_project = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    shared = ["--workload", workload.name, "--work", str(work), "--threads", str(options.threads)]
    their_command = [str(python), str(_HERE / "trl_worker.py"), *shared]
    if options.trl_micro_batch:
        their_command += ["--micro-batch", str(options.trl_micro_batch)]
    our_command = [sys.executable, str(_HERE / "project_worker.py"), *shared]
    our_command += [part for text in options.further for part in ("--set", text)]
    with (
        Worker("trl", their_command, work / "trl.log", without_project) as theirs,
        Worker("ours", our_command, work / "ours.log", env) as ours,
    ):
        print(json.dumps({"check": check(workload, work, theirs, ours)}), flush=True)
        if options.pairs == 0:
            return 0
        figures = pairs.take_turns(theirs, ours, options.pairs)
    conditions = {"threads": options.threads, "wait_policy": options.wait_policy, "settings": options.further}
    print(json.dumps({"workload": workload.name, **figures, **conditions}))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare a step with TRL's.", parents=[shared_options()])
    parser.add_argument("--workload", choices=sorted(name for name in WORKLOADS if not WORKLOADS[name].discriminator))
    pairs.add_options(parser)
    parser.add_argument("--setup", type=Path, metavar="DIR", help="make TRL's environment there, and stop")
    parser.add_argument("--trl", type=Path, default=Path("runs/benchmarks/trl"), help="TRL's environment")
    parser.add_argument(
        "--trl-micro-batch", type=int, help="TRL's responses per forward pass; left out: a whole mini-batch"
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
