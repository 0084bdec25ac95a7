"""The quickstart's task from objects in memory: no file is written but the run itself. About two minutes on two cores.

    python examples/train_from_python.py

A small transformer, made here, first learns careless answers (three in ten are right). Then GSPO finds out what the
reward, a function below, wants: a word spelled backward.
"""

from __future__ import annotations

import argparse
import random
import string
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

import gspo
from gspo.models.scratch import make_model_folder

OPENING = "Spell this word backward (example: sun -> nus): "
CORRECT_DEMONSTRATIONS = 0.3


def make_rows(count: int, draw: random.Random) -> list[dict[str, Any]]:
    """Prompts with the word to spell, and the careless demonstrations' answers."""
    words = ["".join(draw.choices(string.ascii_lowercase, k=draw.randint(3, 6))) for _ in range(count)]
    return [
        {
            "prompt": OPENING + word,
            "reward_model": {"style": "rule", "ground_truth": word[::-1]},
            "answer": word[::-1] if draw.random() < CORRECT_DEMONSTRATIONS else word,
        }
        for word in words
    ]


def spelled_backward(solution_str: str, ground_truth: str) -> dict[str, float]:
    """1 for the right answer and 0 for any other."""
    right = float(solution_str.strip() == ground_truth)
    return {"score": right, "acc": right}


def untrained(seed: int) -> tuple[Any, Any]:
    """A transformer of a million weights and its tokenizer, in memory."""
    with TemporaryDirectory() as folder:
        make_model_folder(
            Path(folder) / "model", hidden_size=128, num_layers=4, max_positions=128, phrases=[OPENING], seed=seed
        )
        path = f"{folder}/model"
        return AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/train_from_python"))
    parser.add_argument("--supervised-steps", type=int, default=300)
    parser.add_argument("--steps", type=int, default=120)
    args = parser.parse_args(arguments)
    draw = random.Random(args.seed)
    train_rows, held_out = make_rows(4000, draw), make_rows(200, draw)
    model, tokenizer = untrained(args.seed)

    gspo.sft(
        model=model,  # it is trained in place
        tokenizer=tokenizer,
        train_data=train_rows,
        lr=2e-3,
        lr_scheduler_type="linear",
        lr_warmup_steps=10,
        train_batch_size=64,
        max_response_length=8,
        total_training_steps=args.supervised_steps,
        default_local_dir=str(args.out / "supervised"),
        seed=args.seed,
        resume_mode="disable",
        logger=["jsonl"],
    )
    no_built_in: dict[str, Any] = {"reward.functions": []}  # in place of the preset's, which reads reasoning-gym's rows
    run = gspo.train(
        "quickstart",
        model=model,
        tokenizer=tokenizer,
        train_data=train_rows,
        val_data=held_out,
        rewards=spelled_backward,
        total_training_steps=args.steps,
        default_local_dir=str(args.out / "gspo"),
        seed=args.seed,
        resume_mode="disable",
        **no_built_in,
    )
    name = next(name for name in run.metrics.column_names if name.startswith("val-core/") and "/acc/mean@" in name)
    curve = [value for value in run.metrics[name].to_pylist() if value is not None]
    print(f"held-out accuracy {curve[0]:.1%} -> {curve[-1]:.1%}; report: {run.report}")


if __name__ == "__main__":
    main()
