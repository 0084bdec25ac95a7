"""`gspo data`: writes data sets that the trainer reads."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gspo.data.sources import Written

__all__ = ["main", "register"]


def register(subparsers: Any) -> None:
    """Adds `data` and its kinds to the command's parser (what `add_subparsers` returned).

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

    lines = kinds.add_parser("jsonl", help="your own questions and answers, one JSON object a line or a csv file")
    lines.add_argument("file", help="the .jsonl, .json, .parquet, .csv or .tsv file")
    lines.add_argument("--out", required=True, help="the .parquet file to write")
    lines.add_argument("--prompt-key", default="prompt", help="key of the question (default prompt)")
    lines.add_argument("--answer-key", default="answer", help="key of the ground truth (default answer); '' for none")
    lines.add_argument("--teacher-key", default=None, help="key of the teacher's text, for GAD")
    lines.add_argument("--data-source", default=None, help="name that selects the reward (default: the file's name)")
    lines.add_argument("--instruction", default="", help="text put after each question")
    lines.add_argument("--system-prompt", default=None, help="system message put before each question")
    _register_teacher(kinds)
    parser.set_defaults(run=main)


def _register_teacher(kinds: Any) -> None:
    teacher = kinds.add_parser("teacher", help="responses of a teacher behind an OpenAI-compatible endpoint")
    teacher.add_argument("file", help="the .parquet, .json or .jsonl file of the prompts")
    teacher.add_argument("--base-url", required=True, metavar="URL", help="such as http://localhost:8000/v1")
    teacher.add_argument("--model", required=True, help="the teacher's name at the endpoint")
    teacher.add_argument("--out", required=True, help="the .parquet file to write; a journal is kept in its folder")
    teacher.add_argument("--n", type=int, default=1, help="responses per prompt, a row each (default 1)")
    teacher.add_argument("--concurrency", type=int, default=8, help="requests at once (default 8)")
    teacher.add_argument("--requests-per-minute", type=float, default=None, help="default: as fast as they come")
    teacher.add_argument("--temperature", type=float, default=None, help="default: the endpoint's")
    teacher.add_argument("--max-tokens", type=int, default=None, help="of a response; default: the endpoint's")
    teacher.add_argument("--system-prompt", default=None, help="put before prompts without a system message")
    teacher.add_argument("--timeout", type=float, default=120.0, help="seconds for one request (default 120)")
    teacher.add_argument("--retries", type=int, default=6, help="further attempts on 429, 5xx and timeouts (default 6)")
    teacher.add_argument(
        "--api-key-env", default="OPENAI_API_KEY", metavar="NAME", help="variable with the key (default OPENAI_API_KEY)"
    )
    teacher.add_argument("--prompt-key", default="prompt", help="the prompt's column (default prompt)")
    teacher.add_argument(
        "--tools-key",
        default="tools",
        help="column of the tools to offer, where there is one (default tools); '': none",
    )
    teacher.add_argument("--teacher-key", default="teacher_response", help="column to write (default teacher_response)")
    teacher.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="KEY=VALUE",
        help="a further field of the request, as in max_completion_tokens=1024",
    )


def main(args: argparse.Namespace) -> int:
    """Writes what the arguments ask for and prints what was written. 1 if a teacher's response is missing."""
    if args.kind == "teacher":
        return _teacher(args)
    for written in _write(args):
        print(written)
    return 0


def _write(args: argparse.Namespace) -> list[Written]:
    from gspo.data.gym_source import write_reasoning_gym
    from gspo.data.sources import write_gsm8k, write_jsonl

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


def _teacher(args: argparse.Namespace) -> int:
    from gspo.data.teacher import collect_teacher
    from gspo.data.teacher_client import Endpoint

    endpoint = Endpoint(
        args.base_url,
        args.model,
        api_key_env=args.api_key_env,
        temperature=args.temperature,
        max_tokens=args.max_tokens,
        extra=dict(args.set),
        timeout=args.timeout,
        retries=args.retries,
        requests_per_minute=args.requests_per_minute,
    )
    collected = collect_teacher(
        args.file,
        args.out,
        endpoint,
        n=args.n,
        concurrency=args.concurrency,
        system_prompt=args.system_prompt,
        prompt_key=args.prompt_key,
        teacher_key=args.teacher_key,
        tools_key=args.tools_key or None,
    )
    print(collected)
    return 1 if collected.failures else 0


def _setting(text: str) -> tuple[str, Any]:
    """KEY=VALUE, where a value that is JSON (a number, true, [1, 2]) is read as such and any other is a text."""
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value
