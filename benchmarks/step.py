"""Runs a workload's whole step several times and prints one JSON line.

    python benchmarks/step.py --workload W1 --repeats 5 --threads 2
    python benchmarks/step.py --workload W3 --repeats 1 --profile runs/w3.txt
    python benchmarks/step.py --workload W1 --set actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096

All figures are medians over the repeats; README.md in this folder says what each is. `flops.py` counts operations.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from statistics import median
from typing import Any

import torch
from flops import phase_flops, useful_flops
from machine import measure_machine, peak_memory_mb
from project import Step, open_workload, run_step
from torch.profiler import ProfilerActivity, profile
from workloads import WORKLOADS, Workload

__all__ = ["main", "measure", "shared_options", "summary"]

_PROFILE_ROWS = 60


def measure(
    workload: Workload, work: Path, *, repeats: int, warmups: int, threads: int, further: Sequence[str] = ()
) -> tuple[list[Step], dict[str, float]]:
    """The repeats, and this process's `peak_memory_mb` and `memory_before_mb`, the peak before the first step."""
    with open_workload(workload, work, threads, further) as run:
        before = peak_memory_mb()
        for _ in range(warmups):
            run_step(run)
        steps = [run_step(run) for _ in range(repeats)]
    return steps, {"peak_memory_mb": peak_memory_mb(), "memory_before_mb": before}


def write_profile(workload: Workload, work: Path, file: Path, threads: int, further: Sequence[str] = ()) -> None:
    """torch's profile of one step after a warm-up, as a table."""
    with open_workload(workload, work, threads, further) as run:
        run_step(run)
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            run_step(run)
    table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=_PROFILE_ROWS)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(table, encoding="utf-8")


# A phase of fewer seconds had nothing to do: old log-probabilities that came with the samples.
_NOT_RUN = 1e-3


def summary(workload: Workload, steps: Sequence[Step], machine: Mapping[str, float]) -> dict[str, Any]:
    """Medians over steps, with useful operations against the machine's matrix products.

    Args:
        workload: what was run.
        steps: its repeats.
        machine: `matmul_gflops` and `onednn_gflops`, what a fraction of 1 would be.
    """
    operations = [phase_flops(workload, step.groups) for step in steps]
    whole = [useful_flops(workload, step.groups) for step in steps]
    names = sorted({name for step in steps for name in step.phases})
    timed = {name: median(step.phases.get(name, 0.0) for step in steps) for name in names}
    counted = [name for name in names if name in operations[0] and timed[name] > _NOT_RUN]

    def fractions(peak: str) -> dict[str, float]:
        """Of the step and of each phase that was run."""
        per_second = {
            "step": [flops / step.seconds for flops, step in zip(whole, steps, strict=True)],
            **{name: [f[name] / s.phases[name] for f, s in zip(operations, steps, strict=True)] for name in counted},
        }
        return {name: median(rates) / machine[peak] / 1e9 for name, rates in per_second.items()}

    return {
        "workload": workload.name,
        "repeats": len(steps),
        "step_s": median(step.seconds for step in steps),
        "phases_s": timed,
        "steps_s": [step.seconds for step in steps],
        "completion_tokens": median(step.completion_tokens for step in steps),
        "completion_tokens_per_s": median(step.completion_tokens / step.seconds for step in steps),
        "decode_tokens_per_s": median(step.completion_tokens / step.phases["gen"] for step in steps),
        "prompt_tokens": median(step.prompt_tokens for step in steps),
        "useful_gflop": {
            "step": median(whole) / 1e9,
            **{name: median(each[name] for each in operations) / 1e9 for name in counted},
        },
        "fraction_of_peak": fractions("matmul_gflops"),
        "fraction_of_onednn": fractions("onednn_gflops") if machine["onednn_gflops"] else None,
    }


def shared_options() -> argparse.ArgumentParser:
    """The options that every command here shares."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--threads", type=int, default=2, help="threads of torch")
    shared.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder of models and prompts")
    shared.add_argument(
        "--set", dest="further", action="append", default=[], metavar="KEY=VALUE", help="a setting of the run"
    )
    return shared


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    command = argparse.ArgumentParser(description="Measure a workload's step.", parents=[shared_options()])
    command.add_argument("--workload", choices=sorted(WORKLOADS), required=True)
    command.add_argument("--repeats", type=int, default=5)
    command.add_argument("--warmups", type=int, default=1)
    command.add_argument("--profile", type=Path, help="write torch's profile of one step to this file, and no figures")
    options = command.parse_args(arguments)
    workload = WORKLOADS[options.workload]
    with redirect_stdout(sys.stderr):
        if options.profile is not None:
            write_profile(workload, options.work, options.profile, options.threads, options.further)
            return 0
        before = measure_machine(options.threads)
        steps, memory = measure(
            workload,
            options.work,
            repeats=options.repeats,
            warmups=options.warmups,
            threads=options.threads,
            further=options.further,
        )
        after = measure_machine(options.threads)
    best = {name: max(before[name], after[name]) for name in before}
    figures = summary(workload, steps, best) | memory
    figures |= {"machine": best | {"before": before, "after": after, "threads": options.threads}}
    figures |= {"torch": torch.__version__, "settings": options.further}
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
