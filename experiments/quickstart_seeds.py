"""The quickstart over several seeds: held-out accuracy against steps, a table and a figure.

    python experiments/quickstart_seeds.py --seeds 1 2 3 --out runs/quickstart

Each seed has its own data, its own untrained model and its own supervised start. A seed that is done is not run again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gspo.commands.quickstart import quickstart
from gspo.observe.jsonl import read_jsonl

ACCURACY = "val-core/reasoning_gym/spell_backward/acc/mean@4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "quickstart")
    args = parser.parse_args()
    curves = {}
    for seed in args.seeds:
        metrics = args.out / f"seed-{seed}" / "gspo" / "metrics.jsonl"
        if not (metrics.parent / "report.html").exists():
            quickstart(args.out, seed)
        curves[seed] = [(line["step"], line[ACCURACY]) for line in read_jsonl(metrics) if ACCURACY in line]
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    steps = [step for step, _ in next(iter(curves.values()))]
    lines = ["| step | " + " | ".join(f"seed {seed}" for seed in curves) + " |", "|---:" * (len(curves) + 1) + "|"]
    for row, step in enumerate(steps):
        lines.append(f"| {step} | " + " | ".join(f"{curve[row][1]:.1%}" for curve in curves.values()) + " |")
    (args.results / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for seed, curve in curves.items():
        axes.plot(*zip(*curve, strict=True), marker="o", markersize=4, label=f"seed {seed}")
    axes.set(xlabel="GSPO step", ylabel="held-out accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(args.results / "curves.png", dpi=150)


if __name__ == "__main__":
    main()
