"""`gspo data`: writes data sets that the trainer reads."""

from __future__ import annotations

import argparse
import json
from typing import Any

from gspo.data.gym_source import write_reasoning_gym
from gspo.data.sources import Written, write_gsm8k, write_jsonl

__all__ = ["main", "register"]


def register(subparsers: Any) -> None:
    """Adds `data` and its three kinds to the command's parser (what `add_subparsers` returned).

    The parsed arguments carry `run`, the function to call with them, which returns the exit code.
    """
    parser = subparsers.add_parser("data", help="write a data set as parquet")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")

    gsm8k = kinds.add_parser("gsm8k", help="grade-school mathematics with worked solutions")
    gsm8k.add_argument(
        "--source", required=True, help="folder with train.jsonl and test.jsonl, or an id on the Hugging Face hub"
    )
    gsm8k.add_argument("--out", required=True, help="folder for train.parquet and test.parquet")

    gym = kinds.add_parser("reasoning-gym", help="a procedural task of reasoning-gym")
    gym.add_argument("task", help="the task's name, such as chain_sum")
    gym.add_argument("--out", required=True, help="folder for train.parquet and test.parquet")
    gym.add_argument("--train-size", type=int, default=1000, help="questions to train on (default 1000)")
    gym.add_argument("--val-size", type=int, default=100, help="questions to validate on (default 100)")
    gym.add_argument("--seed", type=int, default=1, help="seed of the draws (default 1)")
    gym.add_argument("--instruction", default="", help="text put after each question")
    gym.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="KEY=VALUE",
        help="a setting of the task",
    )

    lines = kinds.add_parser("jsonl", help="your own questions and answers, one JSON object a line")
    lines.add_argument("file", help="the .jsonl, .json or .parquet file")
    lines.add_argument("--out", required=True, help="the .parquet file to write")
    lines.add_argument("--prompt-key", default="prompt", help="key of the question (default prompt)")
    lines.add_argument("--answer-key", default="answer", help="key of the ground truth (default answer); '' for none")
    lines.add_argument("--teacher-key", default=None, help="key of the teacher's text, for GAD")
    lines.add_argument("--data-source", default=None, help="name that selects the reward (default: the file's name)")
    lines.add_argument("--instruction", default="", help="text put after each question")
    lines.add_argument("--system-prompt", default=None, help="system message put before each question")
    parser.set_defaults(run=main)


def main(args: argparse.Namespace) -> int:
    """Writes what the arguments ask for and prints what was written."""
    for written in _write(args):
        print(written)
    return 0


def _write(args: argparse.Namespace) -> list[Written]:
    if args.kind == "gsm8k":
        return write_gsm8k(args.source, args.out)
    if args.kind == "reasoning-gym":
        return write_reasoning_gym(
            args.task, args.out, args.train_size, args.val_size, args.seed, dict(args.set), args.instruction
        )
    written = write_jsonl(
        args.file,
        args.out,
        prompt_key=args.prompt_key,
        answer_key=args.answer_key or None,
        teacher_key=args.teacher_key,
        data_source=args.data_source,
        instruction=args.instruction,
        system_prompt=args.system_prompt,
    )
    return [written]


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, where a value that is JSON (a number, true, [1, 2]) is read as such and any other is a text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
