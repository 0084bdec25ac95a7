"""The GAD quickstart over several seeds: the student before, after its warmup, after GAD, and after further SFT.

    python experiments/gad_quickstart.py --seeds 1 2 3 --out runs/quickstart

Each seed has its own questions, teacher's texts, untrained model and supervised start. A seed that is done is not run
again. Written: results.json, table.md and curves.png in --results.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gspo.commands.gad_quickstart import gad_quickstart
from gspo.observe.jsonl import read_jsonl

ACCURACY = "val-core/gsm8k-format/shell_game/acc/mean@2"
STUDENTS = ("untrained", "after warmup", "after GAD", "further SFT")
PANELS = {
    ACCURACY: "held-out accuracy, sampled",
    "critic/d_acc": "discriminator's accuracy",
    "val-aux/gad/margin": "held-out margin",
    "response_length/mean": "response length, tokens",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gad_quickstart")
    args = parser.parse_args()
    results, curves = {}, {}
    for seed in args.seeds:
        folder = args.out / f"gad-seed-{seed}"
        if not (folder / "results.json").exists():
            gad_quickstart(args.out, seed)
        results[seed] = json.loads((folder / "results.json").read_text())
        curves[seed] = read_jsonl(folder / "gad" / "metrics.jsonl")
    args.results.mkdir(parents=True, exist_ok=True)
    (args.results / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    (args.results / "table.md").write_text(table(results))
    print(table(results))
    draw(curves, args.results / "curves.png")


def table(results: dict[int, dict[str, dict[str, Any]]]) -> str:
    """Accuracy sampled and greedy of each seed, and how much of the samples begins with the answer."""
    names = [f"seed {seed}" for seed in results]
    lines = [
        "| student | " + " | ".join(f"{name}, sampled" for name in names) + " | mean | greedy, mean | answers first |",
        "|---" + "|---:" * (len(names) + 3) + "|",
    ]
    for student in STUDENTS:
        runs = [result[student] for result in results.values()]
        cells = [f"{run['sampled']:.1%}" for run in runs]
        means = [sum(run[key] for run in runs) / len(runs) for key in ("sampled", "greedy", "answer_first")]
        lines.append(f"| {student} | " + " | ".join([*cells, *(f"{mean:.1%}" for mean in means)]) + " |")
    return "\n".join(lines) + "\n"


def draw(curves: dict[int, list[dict[str, float]]], path: Path) -> None:
    """One panel a figure, one line a seed; the adversarial stage is shaded."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.4), layout="constrained")
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        for seed, lines in curves.items():
            points = [(line["step"], line[key]) for line in lines if key in line]
            axes.plot(*zip(*points, strict=True), label=f"seed {seed}", linewidth=1.2)
        stages = [line["step"] for line in next(iter(curves.values())) if line.get("training/gad_stage") == 2]
        axes.axvspan(stages[0], stages[-1], color="grey", alpha=0.12, linewidth=0)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(0, 1)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
