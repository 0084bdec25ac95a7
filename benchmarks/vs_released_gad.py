"""GAD here against GAD as its authors' code does it (`released_gad.py`), in turn, on the same weights and prompts.

    python benchmarks/vs_released_gad.py --pairs 5

As in `vs_trl.py`: a process for each, a check that student's and discriminator's losses and gradients agree on one
fixed set of responses, a warm-up step that is not counted, one JSON line a pair and one with the medians.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pairs
from loss_check import compare, make_groups, write_groups
from serving import Worker, environment
from step import shared_options
from workloads import END, WORKLOADS, Workload, prepare_apart, read_token_ids

__all__ = ["check", "main"]

_HERE = Path(__file__).parent


def check(workload: Workload, work: Path, theirs: Worker, ours: Worker) -> dict[str, Any]:
    """Losses and gradient norms of both on the same responses; raises where they differ."""
    folder = work / workload.name
    groups = make_groups(read_token_ids(folder), workload.n, workload.max_tokens, workload.vocab_size)
    for group, teacher in zip(groups, read_token_ids(folder, "teacher_response"), strict=False):
        group.teacher = [*teacher, END]
    file = folder / "check.json"
    write_groups(groups, file)
    ours.ask(f"prepare-check {file}")
    return compare(ours.ask(f"check {file}"), theirs.ask(f"check {file}"))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description="Compare a GAD step with the released way.", parents=[shared_options()]
    )
    pairs.add_options(parser)
    options = parser.parse_args(arguments)
    workload, work = WORKLOADS["W4"], options.work.resolve()
    prepare_apart(workload, work)
    env = environment(options.threads, options.wait_policy)
    shared = ["--workload", workload.name, "--work", str(work), "--threads", str(options.threads)]
    further = [part for text in options.further for part in ("--set", text)]
    with (
        Worker(
            "released", [sys.executable, str(_HERE / "released_worker.py"), *shared], work / "released.log", env
        ) as theirs,
        Worker(
            "ours", [sys.executable, str(_HERE / "project_worker.py"), *shared, *further], work / "ours.log", env
        ) as ours,
    ):
        print(json.dumps({"check": check(workload, work, theirs, ours)}), flush=True)
        if options.pairs == 0:
            return 0
        figures = pairs.take_turns(theirs, ours, options.pairs)
    conditions = {"threads": options.threads, "wait_policy": options.wait_policy, "settings": options.further}
    print(json.dumps({"workload": workload.name, **figures, **conditions}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
