"""Runs in which something is wrong on purpose, and what each of them said of itself, at which step.

    python experiments/planted_runs.py --out experiments/results/planted_runs

A small transformer learns from careless examples to spell words backward or to repeat them; from there each run goes
wrong in its own way, next to controls in which nothing is wrong. Some 45 seconds of one core.
"""

from __future__ import annotations

import argparse
import io
import math
import random
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gspo
from gspo.models.scratch import make_model_folder

LETTERS = "abcdefgh"
NUM_WORDS, WORD = 256, 3
Score = Callable[..., Any]


def exact(solution_str: str, ground_truth: str) -> float:
    """1 for the word spelled backward."""
    return float(solution_str == ground_truth)


def never(solution_str: str, ground_truth: str) -> float:
    """A function that does not read the answers as they are written."""
    return float(solution_str == f"<answer>{ground_truth}</answer>")


def always(solution_str: str) -> float:
    """A function that gives everything the same."""
    del solution_str
    return 1.0


def failing(solution_str: str, ground_truth: str) -> float:
    """A function that fails on most answers."""
    if not solution_str.startswith("a"):
        raise KeyError("label")
    return float(solution_str == ground_truth)


def by_prompt(ground_truth: str) -> float:
    """Right or wrong by the prompt alone, mostly wrong: no two responses to it differ."""
    return float(ground_truth < "b")


def mostly_solved(ground_truth: str) -> float:
    """The same, mostly right."""
    return float(ground_truth >= "b")


@dataclass(frozen=True)
class Planted:
    """A run and what was planted in it.

    Attributes:
        fault: what is wrong, in words; empty in a control.
        settings: the keys that make it so.
        reward: scores the responses; None: GAD's discriminator.
        teacher: the teacher's text, from the word.
        expected: the warnings that must be told.
        at_start: what must be said before the first step.
    """

    fault: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    reward: Score | None = exact
    teacher: Callable[[str], str] = lambda word: word[::-1]
    expected: tuple[str, ...] = ()
    at_start: str = ""


LR = "actor_rollout_ref.actor.optim.lr"
MINI = "actor_rollout_ref.actor.ppo_mini_batch_size"
GAD = {"critic.enable": True, "trainer.critic_warmup": 2, "trainer.total_training_steps": 16, "critic.optim.lr": 1e-3}

RUNS = {
    "control": Planted(""),
    "control, GRPO": Planted("", {"actor_rollout_ref.actor.policy_loss": "vanilla"}),
    "control, GAD": Planted("", GAD, None, lambda word: word[::-1] if word < "c" else word),
    "rate": Planted(f"{LR}=1e-2", {LR: 1e-2}, expected=("collapse",)),
    "rate, one update": Planted(f"{LR}=1e-2, one optimizer step", {LR: 1e-2, MINI: 16}, expected=("collapse",)),
    "no rate": Planted(f"{LR}=0", {LR: 0.0}, expected=("no update",)),
    "length": Planted(
        "data.max_response_length=2, for answers of 4 tokens",
        {"data.max_response_length": 2},
        lambda solution_str, ground_truth: float(solution_str == ground_truth[:2]),
        expected=("cut responses",),
    ),
    "reward 0": Planted("a reward that is always 0", {}, never, expected=("equal rewards",)),
    "reward 1": Planted("a reward that is always 1", {}, always, expected=("equal rewards",)),
    "too hard": Planted("groups all wrong, but for a few", {}, by_prompt, expected=("groups without spread",)),
    "solved": Planted("groups all right, but for a few", {}, mostly_solved, expected=("groups without spread",)),
    "failing reward": Planted("a reward function that fails on most", {}, failing, expected=("unjudged responses",)),
    "overflow": Planted(
        "a reward of 1e38",
        {},
        lambda solution_str, ground_truth: 1e38 * exact(solution_str, ground_truth),
        expected=("not finite",),
    ),
    "filtered": Planted(
        "a filter that leaves nearly all groups out",
        {"algorithm.filter_groups.enable": True, "algorithm.filter_groups.metric": "score"},
        lambda solution_str, ground_truth: exact(solution_str, ground_truth) * (ground_truth < "b"),
        expected=("groups without spread",),
    ),
    "narrow clip": Planted(
        "GRPO with a clip range of 1e-6",
        {"actor_rollout_ref.actor.policy_loss": "vanilla", "actor_rollout_ref.actor.clip_ratio": 1e-6},
        at_start="clips almost every token",
    ),
    "wide clip": Planted(
        "GSPO with a clip range of 0.2",
        {"actor_rollout_ref.actor.clip_ratio": 0.2},
        at_start="practically never clips",
    ),
    "one text": Planted(
        "a teacher whose texts are all the same",
        GAD,
        None,
        lambda _: "gag",
        expected=("saturated discriminator",),
        at_start="the same text",
    ),
    "blind critic": Planted(
        "a discriminator that does not learn",
        {**GAD, "critic.optim.lr": 0.0},
        None,
        expected=("discriminator at chance",),
    ),
}


def rows(teacher: Callable[[str], str], careless: float, seed: int) -> list[dict[str, Any]]:
    """Prompts, with an answer that is `careless` in so many cases, and a teacher's text."""
    draw = random.Random(seed)
    words = ["".join(draw.choices(LETTERS, k=WORD)) for _ in range(NUM_WORDS)]
    return [
        {
            "data_source": "words",
            "prompt": f"{word}=",
            "reward_model": {"ground_truth": word[::-1]},
            "answer": word if draw.random() < careless else word[::-1],
            "teacher_response": teacher(word),
        }
        for word in words
    ]


def supervised(folder: Path) -> Path:
    """The model from which every run starts."""
    untrained = make_model_folder(folder / "untrained", hidden_size=64, num_layers=2, max_positions=64, seed=1)
    run = gspo.sft(
        model=str(untrained),
        train_data=rows(lambda word: word, 0.6, 1),
        lr=3e-3,
        **{
            "data.train_batch_size": 64,
            "data.max_response_length": 8,
            "trainer.total_training_steps": 150,
            "trainer.default_local_dir": str(folder / "supervised"),
            "trainer.logger": ["jsonl"],
        },
    )
    return run.folder / "huggingface"


def told(name: str, planted: Planted, model: Path, folder: Path) -> list[tuple[int, str, str]]:
    """Step, name and text of each warning of a run."""
    settings = {
        "actor_rollout_ref.actor.policy_loss": "gspo",
        LR: 3e-4,
        MINI: 4,
        "actor_rollout_ref.rollout.n": 8,
        "data.train_batch_size": 16,
        "data.max_response_length": 8,
        "trainer.total_training_steps": 10,
        "trainer.default_local_dir": str(folder / name.replace(" ", "-").replace(",", "")),
        "trainer.logger": ["jsonl"],
        "trainer.save_hf": False,
        "trainer.save_interval_minutes": None,
        **planted.settings,
    }
    rewards = {} if planted.reward is None else {"rewards": planted.reward}
    printed, ended = io.StringIO(), []
    with redirect_stdout(printed):
        data = rows(planted.teacher, 0.0, 2)
        with gspo.Trainer(model=str(model), train_data=data, **rewards, **settings) as trainer:
            try:
                trainer.train()
            except ValueError as error:
                ended = [(trainer.run.step + 1, "the run ends", str(error))]
            warnings = [(each.step, each.rule.name, each.text) for each in trainer.run.watch.told.values()]
    lines = printed.getvalue().splitlines()
    missing = [text for _, _, text in warnings if lines.count(text) != 1]
    if missing or bool(warnings) != bool([line for line in lines if line.startswith("warnings of this run")]):
        raise RuntimeError(f"{name}: not printed once each and in a summary: {missing or warnings}")
    warnings = [each for each in warnings if each[1] != "slow step"]  # of the machine, not of the run
    start = [(0, "at the start", line) for line in lines if planted.at_start and planted.at_start in line]
    return [*start, *warnings, *ended]


def main() -> int:
    """Trains all of them, writes table.md, and returns 1 where a warning is missing or a control has one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=None, help="folder of table.md; default: printed only")
    parser.add_argument("--only", nargs="+", choices=list(RUNS), default=list(RUNS))
    args = parser.parse_args()
    start, wrong = time.perf_counter(), []
    lines = ["| planted | key or cause | step | warning | what was printed |", "|---|---|---:|---|---|"]
    with tempfile.TemporaryDirectory() as place:
        model = supervised(Path(place))
        for name in args.only:
            planted = RUNS[name]
            found = told(name, planted, model, Path(place))
            names = {warning for _, warning, _ in found}
            wanted = {*planted.expected, *(["at the start"] if planted.at_start else [])}
            if not wanted <= names or (not planted.fault and names):
                wrong.append(name)
            for step, warning, text in found or [(math.nan, "none", "")]:
                at = "" if math.isnan(step) else str(step)
                lines.append(f"| {name} | {planted.fault or 'nothing'} | {at} | {warning} | {text} |")
    table = "\n".join(lines)
    print(f"\n{table}\n\n{time.perf_counter() - start:.0f} s; not as expected: {', '.join(wrong) or 'none'}")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "table.md").write_text(table + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
