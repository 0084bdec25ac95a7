"""What GAD loses without its parts: the warmups, a discriminator that goes on learning, advantages of plain distances.

    python experiments/gad_ablations.py --seeds 1 2 3 --out runs/quickstart

The task, the students and the full run are the GAD quickstart's (experiments/gad_quickstart.py), of which what is done
is used. Every variant has as many adversarial steps. Written: results.json, table.md and curves.png in --results.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gspo.commands.gad_quickstart import gad_config, measure, prepare, sft_config
from gspo.observe.jsonl import read_jsonl
from gspo.trainer import train
from gspo.trainer.sft import sft

ACCURACY = "val-core/gsm8k-format/shell_game/acc/mean@2"
ADVERSARIAL_STEPS = 80
# Name: folder and what differs from the preset.
VARIANTS = {
    "GAD": ("gad", []),
    "no discriminator warmup": (
        "no_discriminator_warmup",
        ["trainer.gad_warmup_steps=0", "trainer.critic_warmup=0", f"trainer.total_training_steps={ADVERSARIAL_STEPS}"],
    ),
    "frozen discriminator": ("frozen", ["critic.discriminator.freeze_after_warmup=true"]),
    "no student warmup": ("no_student_warmup", ["trainer.gad_warmup_steps=0"]),
    "advantages / std": ("std", ["algorithm.norm_adv_by_std_in_grpo=true"]),
}
PANELS = {
    ACCURACY: "held-out accuracy, sampled",
    "reward/discriminator/mean": "discriminator's score of the student",
    "critic/d_acc": "discriminator's accuracy",
    "val-aux/gad/rouge_l": "ROUGE-L with the teacher",
    "response_length/mean": "response length, tokens",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gad_ablations")
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[int, dict[str, Any]]] = {}
    curves: dict[str, dict[int, list[dict[str, float]]]] = {}
    for seed in args.seeds:
        folder = args.out / f"gad-seed-{seed}"
        if not (folder / "supervised" / "huggingface").exists():
            prepare(folder, seed)
            sft(sft_config(folder, seed))
        for name, (own, overrides) in VARIANTS.items():
            if name == "no student warmup":
                overrides = [*overrides, f"actor_rollout_ref.model.path={folder / 'untrained'}"]
            config = gad_config(folder, seed, overrides, own)
            if not (folder / own / "report.html").exists():
                train(config)
            lines = adversarial(read_jsonl(folder / own / "metrics.jsonl"))
            figures = asdict(measure(folder / own / "huggingface", config))
            curves.setdefault(name, {})[seed] = lines
            results.setdefault(name, {})[seed] = figures | at_the_ends(lines)
            # After every run, so that what is finished is there to be read.
            (args.results / "results.json").write_text(json.dumps(results, indent=1) + "\n")
            (args.results / "table.md").write_text(table(results))
            draw(curves, args.results / "curves.png")
    print(table(results))


def adversarial(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """The adversarial stage, its steps counted from 1; step 0 is the last validation before it."""
    number = next(number for number, line in enumerate(lines) if line.get("training/gad_stage") == 2)
    first = lines[number]["step"]
    before = [line for line in lines[:number] if ACCURACY in line]
    return [{**line, "step": max(0, line["step"] - first + 1)} for line in [before[-1], *lines[number:]]]


def at_the_ends(lines: list[dict[str, float]]) -> dict[str, float]:
    """Means over the first and the last five adversarial steps, and the last validation."""
    steps = [line for line in lines if line["step"] > 0]
    means = {
        f"{name}_{end}": sum(line[key] for line in part) / len(part)
        for name, key in (("score", "reward/discriminator/mean"), ("d_acc", "critic/d_acc"))
        for end, part in (("first", steps[:5]), ("last", steps[-5:]))
    }
    last = [line for line in lines if ACCURACY in line][-1]
    return means | {"rouge_l": last["val-aux/gad/rouge_l"], "length": last["val-aux/gad/response_length"]}


def table(results: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Means over seeds, of the accuracy with the least and the greatest in brackets."""
    lines = [
        "| variant | accuracy, sampled | greedy | answers first | score, first to last steps | d_acc, last steps | "
        "ROUGE-L | length |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, seeds in results.items():
        runs = list(seeds.values())
        mean = {key: sum(run[key] or 0.0 for run in runs) / len(runs) for key in runs[0]}
        sampled = [run["sampled"] for run in runs]
        lines.append(
            f"| {name} | {mean['sampled']:.1%} ({min(sampled):.1%} to {max(sampled):.1%}) | {mean['greedy']:.1%} | "
            f"{mean['answer_first']:.1%} | {mean['score_first']:.2f} to {mean['score_last']:.2f} | "
            f"{mean['d_acc_last']:.2f} | {mean['rouge_l']:.2f} | {mean['length']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def draw(curves: dict[str, dict[int, list[dict[str, float]]]], path: Path) -> None:
    """One panel a figure, one colour a variant, one line a seed, over the adversarial stage."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.6), layout="constrained")
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        for number, (name, seeds) in enumerate(curves.items()):
            for position, lines in enumerate(seeds.values()):
                points = [(line["step"], line[key]) for line in lines if key in line]
                label = name if position == 0 else None
                axes.plot(*zip(*points, strict=True), color=f"C{number}", label=label, linewidth=1, alpha=0.8)
        axes.set(title=title, xlabel="adversarial step")
        axes.grid(alpha=0.3)
    panels[0].set_ylim(0, 1)
    panels[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
