"""Seconds and peak memory of an update and of its log-probabilities against the size of the batch (workload W5).

    python benchmarks/growth.py --out runs/benchmarks/growth
    python benchmarks/growth.py --axis n --axis vocabulary --points 3

W1's model; one of three sizes grows and the others stay: responses of a prompt (n), tokens of a response (length), and
the vocabulary. Each point is a process of its own, because a process's peak memory never falls. Writes `growth.json`,
`growth.md` and, where matplotlib is there, `growth.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from machine import peak_memory_mb
from workloads import SPECIAL, WORKLOADS, make_model

from gspo.config import load_config
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.models import Policy, keep_freed_memory, use_fused_kernels
from gspo.observe import PhaseClock
from gspo.trainer.batching import Cut
from gspo.trainer.old_log_probs import add_log_probs
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.trained import Actor
from gspo.world import Alone

__all__ = ["AXES", "Point", "main", "markdown", "measure", "points"]

# Weights, gradients and AdamW's two moments, in float32.
_BYTES_PER_WEIGHT = 16


@dataclass(frozen=True)
class Point:
    """A size of the batch.

    Attributes:
        n: responses of a prompt.
        length: tokens of a response.
        vocabulary: of the model.
        prompt: tokens of a prompt.
        prompts: how many there are.
    """

    n: int = 8
    length: int = 64
    vocabulary: int = 512
    prompt: int = 256
    prompts: int = 8


AXES: dict[str, tuple[int, ...]] = {
    "n": (4, 8, 16, 32, 64),
    "length": (64, 128, 256, 512, 1024, 2048),
    "vocabulary": (512, 4096, 32768, 151936),
}


def points(axis: str, count: int | None = None) -> list[Point]:
    """The points of an axis, the first `count` of them."""
    return [replace(Point(), **{axis: value}) for value in AXES[axis][:count]]


def make_batch(point: Point) -> GroupBatch:
    """Random tokens, with the tensors that an update needs but for the old log-probabilities."""
    draw = torch.Generator().manual_seed(0)

    def tokens(count: int) -> list[int]:
        ids: list[int] = torch.randint(len(SPECIAL), point.vocabulary, (count,), generator=draw).tolist()
        return ids

    groups = [
        Group(
            Prompt(f"growth:{number}", tuple(tokens(point.prompt)), "", "growth"),
            [
                Response(tokens(point.length), [-1.0] * point.length, "", "length", outcome=Outcome(float(index)))
                for index in range(point.n)
            ],
        )
        for number in range(point.prompts)
    ]
    batch = GroupBatch.from_groups(groups)
    advantages = torch.randn(len(batch), 1, generator=draw)
    batch["advantages"] = advantages * batch["response_mask"]
    return batch


def measure(point: Point, threads: int, further: Sequence[str] = (), repeats: int = 2) -> dict[str, Any]:
    """The figures of one point, in this process: best seconds of each phase, and memory.

    `rest_mb` is the peak less what this process had before the model and less weights, gradients and moments: what
    activations, logits and the batch take.
    """
    torch.set_num_threads(threads)
    workload = replace(WORKLOADS["W1"], vocab_size=point.vocabulary)
    config = load_config(
        overrides=[
            "actor_rollout_ref.actor.policy_loss=gspo",
            f"data.train_batch_size={point.prompts}",
            f"actor_rollout_ref.rollout.n={point.n}",
            *further,
        ]
    )
    before = peak_memory_mb()
    model = make_model(workload, max_positions=point.prompt + point.length)
    use_fused_kernels(model)
    keep_freed_memory()
    section, rollout = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout
    actor, world, temperature = Actor(Policy(model), section.optim, total_steps=100), Alone(), rollout.temperature
    update = PolicyUpdate(actor, section, temperature, Cut.of_actor(section, seed=1), PhaseClock(), world)
    cut = Cut(rollout.log_prob_max_token_len_per_gpu)
    batch = make_batch(point)
    seconds = {
        "log_probs_s": _best(lambda: add_log_probs(batch, actor.policy, temperature, cut, world), repeats),
        "update_s": _best(lambda: update.update(batch, step=1), repeats),
    }
    peak = peak_memory_mb()
    state = sum(p.numel() for p in model.parameters()) * _BYTES_PER_WEIGHT / 1e6
    return {**asdict(point), **seconds, "peak_mb": peak, "state_mb": state, "rest_mb": peak - before - state}


def _best(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def markdown(results: dict[str, list[dict[str, Any]]]) -> str:
    """A table for each axis."""
    parts = []
    for axis, rows in results.items():
        fixed = ", ".join(f"{name} {value}" for name, value in asdict(Point()).items() if name != axis)
        lines = [
            f"### {axis} ({fixed})",
            "",
            f"| {axis} | log-probs s | update s | peak MB | weights and optimizer MB | rest MB |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            lines.append(
                f"| {row[axis]} | {row['log_probs_s']:.2f} | {row['update_s']:.2f} | {row['peak_mb']:.0f} | "
                f"{row['state_mb']:.0f} | {row['rest_mb']:.0f} |"
            )
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def plot(results: dict[str, list[dict[str, Any]]], file: Path) -> None:
    """Seconds above, on a logarithmic scale, and memory below, from zero; a column for each axis."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    figure, axes = plt.subplots(2, len(results), figsize=(4 * len(results), 6), squeeze=False)
    for column, (axis, rows) in enumerate(results.items()):
        sizes = [row[axis] for row in rows]
        for row_of_figure, (names, label) in enumerate(
            (({"update_s": "update", "log_probs_s": "log-probabilities"}, "seconds"),
             ({"peak_mb": "peak of the process", "rest_mb": "less the process, weights and optimizer"}, "GB"))
        ):  # fmt: skip
            panel = axes[row_of_figure][column]
            for name, title in names.items():
                unit = 1000 if label == "GB" else 1
                panel.plot(sizes, [row[name] / unit for row in rows], marker="o", label=title)
            panel.set(xscale="log", xlabel=axis, ylabel=label)
            if label == "GB":
                panel.set_ylim(bottom=0)
            else:
                panel.set_yscale("log")
                panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                panel.yaxis.set_major_formatter("{x:g}")
            panel.set_xticks(sizes, [str(size) for size in sizes])
            panel.minorticks_off()
            panel.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Measure how an update grows with its batch.")
    parser.add_argument("--axis", choices=sorted(AXES), action="append", help="left out: all")
    parser.add_argument("--points", type=int, help="the first so many of each axis")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", dest="further", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/growth"))
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.point is not None:
        print(json.dumps(measure(Point(**options.point), options.threads, options.further)))
        return 0
    own = [__file__, "--threads", str(options.threads), *(part for text in options.further for part in ("--set", text))]
    results: dict[str, list[dict[str, Any]]] = {}
    for axis in options.axis or AXES:
        for point in points(axis, options.points):
            command = [sys.executable, *own, "--point", json.dumps(asdict(point))]
            env = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env)
            row = json.loads(done.stdout)
            results.setdefault(axis, []).append(row)
            print(json.dumps({"axis": axis, **row}), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "growth.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (options.out / "growth.md").write_text(markdown(results), encoding="utf-8")
    try:
        plot(results, options.out / "growth.png")
    except ImportError:
        print("no plot: it needs matplotlib (pip install 'gspo[experiments]')", file=sys.stderr)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
