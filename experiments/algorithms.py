"""GSPO, GRPO and PPO on the quickstart's task, at one and at four optimizer steps per rollout, over several seeds.

    python experiments/algorithms.py --seeds 1 2 3 --out runs/algorithms

All runs start from one supervised model (the quickstart's, seed 1); a run's seed decides its prompts' order and its
samples. Clip ranges are the papers': 3e-4 / 4e-4 for GSPO, 0.2 / 0.27 for GRPO in the comparison of the GSPO paper, 0.2
for PPO. GSPO and GRPO weigh each response the same, as their papers do. A finished run is not run again.
"""

from __future__ import annotations

import argparse
from itertools import accumulate
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from gspo.cli import main as gspo
from gspo.commands.quickstart import prepare, quickstart_config
from gspo.observe.jsonl import read_jsonl
from gspo.trainer.sft import sft

ACTOR = "actor_rollout_ref.actor"
ACCURACY = "val-core/reasoning_gym/spell_backward/acc/mean@4"
CURVES = {
    ACCURACY: "held-out accuracy",
    "critic/score/mean": "reward",
    "actor/pg_clipfrac": "clip fraction",
    "actor/entropy": "entropy",
    "actor/grad_norm": "gradient norm",
    "actor/ppo_kl": "KL to the sampling policy",
}
COLOURS = {"gspo": "tab:blue", "grpo": "tab:orange", "ppo": "tab:green"}


def variants(supervised: Path) -> dict[str, list[str]]:
    """Each algorithm at one and at four optimizer steps per rollout of 64 prompts."""
    algorithms = {
        "gspo": [f"{ACTOR}.policy_loss=gspo"],
        "grpo": [
            f"{ACTOR}.policy_loss=vanilla",
            f"{ACTOR}.clip_ratio_low=0.2",
            f"{ACTOR}.clip_ratio_high=0.27",
            f"{ACTOR}.loss_agg_mode=seq-mean-token-mean",
        ],
        "ppo": [
            f"{ACTOR}.policy_loss=vanilla",
            f"{ACTOR}.clip_ratio=0.2",
            "algorithm.adv_estimator=gae",
            f"critic.model.path={supervised}",
            "critic.optim.lr=3e-4",
        ],
    }
    return {
        f"{name}-{updates}": [*settings, f"{ACTOR}.ppo_mini_batch_size={64 // updates}"]
        for updates in (1, 4)
        for name, settings in algorithms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/algorithms"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "algorithms")
    args = parser.parse_args()
    task = args.out / "task"
    supervised = task / "supervised" / "huggingface"
    if not supervised.exists():
        prepare(task, seed=1)
        sft(quickstart_config(task, 1, supervised=True))
    options = [f"{name}:{','.join(settings)}" for name, settings in variants(supervised).items()]
    code = gspo(
        [
            "compare",
            *("--config-name", "quickstart"),
            f"actor_rollout_ref.model.path={supervised}",
            f"data.train_files={task / 'data' / 'train.parquet'}",
            f"data.val_files={task / 'data' / 'test.parquet'}",
            f"trainer.total_training_steps={args.steps}",
            *("--variants", *options),
            *("--seeds", *map(str, args.seeds)),
            *("--out", str(args.out)),
        ]
    )
    if code:
        raise SystemExit(code)
    args.results.mkdir(parents=True, exist_ok=True)
    runs = {
        name: [read_jsonl(args.out / "runs" / f"{name}-seed-{seed}" / "metrics.jsonl") for seed in args.seeds]
        for name in variants(supervised)
    }
    (args.results / "table.md").write_text(table(runs))
    print(table(runs))
    draw(runs, args.results / "curves.png")


def table(runs: dict[str, list[list[dict[str, float]]]]) -> str:
    """Means over seeds, with the smallest and the largest of them in brackets."""
    lines = [
        "| algorithm | optimizer steps | accuracy, start | at the end | training time | clip fraction | entropy, end | "
        "largest grad |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, seeds in runs.items():
        algorithm, updates = name.split("-")
        accuracy = [[line[ACCURACY] for line in run if ACCURACY in line] for run in seeds]
        ends = [curve[-1] for curve in accuracy]
        clip = [mean(run, "actor/pg_clipfrac") for run in seeds]
        entropy = [mean(run[-8:], "actor/entropy") for run in seeds]
        norm = max(line.get("actor/grad_norm", 0.0) for run in seeds for line in run)
        lines.append(
            f"| {algorithm} | {updates} | {sum(c[0] for c in accuracy) / len(accuracy):.1%} | "
            f"{sum(ends) / len(ends):.1%} ({min(ends):.1%} to {max(ends):.1%}) | "
            f"{sum(seconds(run)[-1] for run in seeds) / len(seeds):.1f} s | {sum(clip) / len(clip):.2g} | "
            f"{sum(entropy) / len(entropy):.2f} | {norm:.1f} |"
        )
    return "\n".join(lines) + "\n"


def mean(run: list[dict[str, float]], key: str) -> float:
    values = [line[key] for line in run if key in line]
    return sum(values) / len(values) if values else 0.0


def seconds(run: list[dict[str, float]]) -> list[float]:
    """Seconds of training up to each line, without validation."""
    return list(accumulate(line.get("timing_s/step", 0.0) for line in run))


def draw(runs: dict[str, list[list[dict[str, float]]]], path: Path) -> None:
    """One panel a curve: four steps solid, one step dashed, the band from the least to the most of the seeds.

    The last two are over seconds of training, the mean of the seeds at each step.
    """
    figure, panels = plt.subplots(2, 4, figsize=(17, 7), layout="constrained")
    for axes, key in zip(panels.flat[len(CURVES) :], (ACCURACY, "critic/score/mean"), strict=True):
        for name, seeds in runs.items():
            algorithm, updates = name.split("-")
            times = [seconds(run) for run in seeds]
            there = [number for number, line in enumerate(seeds[0]) if key in line]
            axes.plot(
                [sum(time[number] for time in times) / len(seeds) for number in there],
                [sum(run[number][key] for run in seeds) / len(seeds) for number in there],
                color=COLOURS[algorithm],
                linestyle="-" if updates == "4" else "--",
            )
        axes.set(title=CURVES[key], xlabel="seconds of training")
        axes.grid(alpha=0.3)
    for axes, (key, title) in zip(panels.flat, CURVES.items(), strict=False):
        for name, seeds in runs.items():
            algorithm, updates = name.split("-")
            by_step: dict[int, list[float]] = {}
            for run in seeds:
                for line in run:
                    if key in line:
                        by_step.setdefault(int(line["step"]), []).append(line[key])
            steps = sorted(by_step)
            middle = [sum(by_step[step]) / len(by_step[step]) for step in steps]
            style = {"color": COLOURS[algorithm], "linestyle": "-" if updates == "4" else "--"}
            axes.plot(steps, middle, label=f"{algorithm}, {updates} step{'s' * (updates != '1')}", **style)
            low, high = ([pick(by_step[step]) for step in steps] for pick in (min, max))
            axes.fill_between(steps, low, high, color=COLOURS[algorithm], alpha=0.12, linewidth=0)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if key == "actor/pg_clipfrac":
            axes.set_yscale("symlog", linthresh=1e-4)
            axes.set_ylim(bottom=0)
    panels.flat[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
