"""Trains with a reward of your own: a plain function, here a closure, judges every response.

    python examples/own_reward.py --model path/to/model

Without --model a small untrained transformer is made, which shows that everything runs; its reward is easy to earn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import gspo

PROMPTS = ["Write one sentence on rain.", "Write one sentence on trees.", "Name a colour.", "Name a river."]


def different_letters(target: int) -> Callable[..., dict[str, float]]:
    """A reward that grows with the number of different letters, up to `target` of them."""

    def reward(solution_str: str) -> dict[str, float]:
        letters = {letter for letter in solution_str.lower() if letter.isalpha()}
        return {"score": min(1.0, len(letters) / target), "acc": float(len(letters) >= target)}

    return reward


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--model", help="folder or hub name of a causal language model")
    parser.add_argument("--out", type=Path, default=Path("runs/own_reward"))
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(arguments)
    model = args.model or untrained(args.out / "untrained")
    run = gspo.train(
        model=model,
        train_data=[{"prompt": prompt} for prompt in PROMPTS],
        rewards={"letters": different_letters(8), "brevity": (0.1, lambda solution_str: -len(solution_str) / 100)},
        policy_loss="gspo",
        n=8,
        train_batch_size=4,
        ppo_mini_batch_size=2,
        max_response_length=16,
        lr=1e-3,
        total_training_steps=args.steps,
        default_local_dir=str(args.out / "run"),
        experiment_name="own_reward",
    )
    curve = [value for value in run.metrics["critic/score/mean"].to_pylist() if value is not None]
    print(f"reward {curve[0]:.3f} -> {curve[-1]:.3f} in {run.step} steps; report: {run.report}")


def untrained(folder: Path) -> str:
    """A small transformer from scratch, with its tokenizer."""
    from gspo.models.scratch import make_model_folder

    if not folder.exists():
        make_model_folder(folder, hidden_size=64, num_layers=2, max_positions=128)
    return str(folder)


if __name__ == "__main__":
    main()
