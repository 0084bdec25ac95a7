"""From nothing to a student distilled from a teacher that can only be read: GAD, and more supervised training.

The teacher of `gspo.data.shell_game` is always right and answers in two ways; a small model learns one of them and
guesses in the other. Supervised training copies both ways. The discriminator sees that the student's explanations do
not fit its answers, and the student gives the way up that it cannot do. Accuracy is measured and rewarded nowhere.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gspo.config import Config, load_config
from gspo.config.overrides import setting
from gspo.data import load_dataset
from gspo.data.shell_game import ALPHABET, PHRASES, answers_first, write_shell_game
from gspo.evaluation.accuracy import answer_groups, summarize
from gspo.models import load_actor_tokenizer, load_policy
from gspo.models.scratch import make_model_folder
from gspo.rewards import RewardManager
from gspo.rollout import LocalEngine, SamplingParams
from gspo.shell import gspo_command
from gspo.trainer import train
from gspo.trainer.assembly import validation_sampling
from gspo.trainer.opening import choose_device
from gspo.trainer.sft import sft

__all__ = ["Measured", "further_steps", "gad_config", "gad_quickstart", "measure", "prepare", "sft_config"]

_NUM_TRAIN, _NUM_VAL = 4000, 200
SUPERVISED_STEPS, SUPERVISED_LR = 800, 3e-3
FURTHER_LR = 5e-4
_MODEL = {"hidden_size": 64, "num_layers": 2, "max_positions": 64}


@dataclass(frozen=True)
class Measured:
    """A model on held-out questions.

    Attributes:
        sampled: accuracy at temperature 1, four responses a question.
        greedy: accuracy of the most likely response.
        answer_first: how much of the sampled responses begins with the answer.
        guessed, explained: accuracy of the sampled responses that answer first, and of those that explain first; None
            where there is none.
    """

    sampled: float
    greedy: float
    answer_first: float
    guessed: float | None
    explained: float | None


def gad_quickstart(out: Path, seed: int = 1) -> int:
    """Runs it all in the folder `out/gad-seed-N` and prints what was learned. Returns the exit code."""
    console, start = Console(highlight=False), time.perf_counter()
    folder = out / f"gad-seed-{seed}"
    console.print(f"[bold]1 of 5[/]  the shell game: a teacher's texts on {_NUM_TRAIN} questions, {_NUM_VAL} held out")
    prepare(folder, seed)
    console.print(f"[bold]2 of 5[/]  warmup: supervised training on the teacher's texts, {SUPERVISED_STEPS} steps")
    sft(sft_config(folder, seed))
    console.print("[bold]3 of 5[/]  GAD: a discriminator learns to tell the student from the teacher, and rewards it")
    config = gad_config(folder, seed)
    run = train(config)
    steps = further_steps(config)
    console.print(f"[bold]4 of 5[/]  for comparison: {steps} further supervised steps of the same warm student")
    sft(sft_config(folder, seed, further=steps))
    console.print("[bold]5 of 5[/]  what came of it")
    models = {
        "untrained": folder / "untrained",
        "after warmup": folder / "supervised" / "huggingface",
        "after GAD": run.folder / "huggingface",
        "further SFT": folder / "further" / "huggingface",
    }
    found = {name: measure(model, config) for name, model in models.items()}
    text = json.dumps({name: asdict(figures) for name, figures in found.items()}, indent=1)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    _print_results(found, console)
    console.print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes, everything included\n")
    console.print(f"report   {run.folder / 'report.html'}   (open it in a browser)", soft_wrap=True)
    console.print(f"model    {run.folder / 'huggingface'}", soft_wrap=True)
    console.print(f"samples  {run.folder / 'samples.jsonl'}\n")
    console.print(f"next: another seed       {gspo_command('quickstart', '--gad', '--seed', '2')}", soft_wrap=True)
    every = gspo_command("config", "--config-name", "gad_quickstart")
    console.print(f"      every setting      {every}", soft_wrap=True)
    console.print(
        f"      your own teacher   {gspo_command('data', 'teacher', '--help')}; docs/algorithms/gad.md leads on",
        soft_wrap=True,
    )
    return 0


def prepare(folder: Path, seed: int, answer_first: float = 0.5) -> None:
    """Writes the data and the untrained model."""
    write_shell_game(folder / "data", _NUM_TRAIN, _NUM_VAL, seed=seed, answer_first=answer_first)
    make_model_folder(folder / "untrained", **_MODEL, characters=ALPHABET, phrases=PHRASES, seed=seed)


def gad_config(folder: Path, seed: int, overrides: Sequence[str] = (), name: str = "gad") -> Config:
    """The configuration of the GAD run, as a user would write it on the command line."""
    return load_config(
        config_name="gad_quickstart",
        overrides=[
            *_shared(folder, seed, name),
            setting("actor_rollout_ref.model.path", folder / "supervised" / "huggingface"),
            setting("data.val_files", folder / "data" / "test.parquet"),
            *overrides,
        ],
    )


def sft_config(folder: Path, seed: int, *, further: int = 0, lr: float = FURTHER_LR, name: str = "further") -> Config:
    """The configuration of the warmup, or of `further` steps from its end at the rate `lr`."""
    start = folder / "supervised" / "huggingface" if further else folder / "untrained"
    schedule = "constant" if further else "linear"
    return load_config(
        overrides=[
            *_shared(folder, seed, name if further else "supervised"),
            setting("actor_rollout_ref.model.path", start),
            f"actor_rollout_ref.actor.optim.lr={lr if further else SUPERVISED_LR}",
            "actor_rollout_ref.actor.optim.lr_warmup_steps=10",
            f"actor_rollout_ref.actor.optim.lr_scheduler_type={schedule}",
            "data.answer_key=teacher_response",
            "data.train_batch_size=32",
            "data.max_prompt_length=16",
            "data.max_response_length=20",
            f"trainer.total_training_steps={further or SUPERVISED_STEPS}",
            "trainer.logger=[jsonl]",
        ]
    )


def further_steps(config: Config) -> int:
    """Optimizer steps of the GAD run on the student or the discriminator: as many teacher's rows, seen as often."""
    trainer = config.trainer
    return (trainer.gad_warmup_steps or 0) + (trainer.total_training_steps or 0)


def measure(model: Path, config: Config) -> Measured:
    """How a model does on the held-out questions: sampled as in the run's validation, and greedily."""
    settings = replace(config.policy_model, path=str(model))
    tokenizer = load_actor_tokenizer(settings)
    data = load_dataset(config.data.val_files, config.data, tokenizer)
    longest = data.longest + config.data.max_response_length
    policy = load_policy(settings, tokenizer, choose_device(config.trainer), longest, train=False)
    rollout = config.rollout
    engine = LocalEngine(policy, tokenizer, seed=config.trainer.seed, max_num_seqs=rollout.max_num_seqs)
    greedy = SamplingParams(max_tokens=config.data.max_response_length, temperature=0.0)
    with RewardManager(config.reward, config.custom_reward_function) as rewards:
        sampled = answer_groups(
            engine,
            rewards,
            data.prompts,
            validation_sampling(rollout, config.data.max_response_length),
            n=rollout.val_kwargs.n,
        )
        (likely,) = summarize(answer_groups(engine, rewards, data.prompts, greedy))
    rated = [
        (answers_first(response.text), response.outcome.extras["acc"])
        for group in sampled
        for response in group.responses
        if response.outcome is not None
    ]
    guessed = [right for first, right in rated if first]
    explained = [right for first, right in rated if not first]
    return Measured(
        sampled=sum(right for _, right in rated) / len(rated),
        greedy=likely.accuracy,
        answer_first=len(guessed) / len(rated),
        guessed=sum(guessed) / len(guessed) if guessed else None,
        explained=sum(explained) / len(explained) if explained else None,
    )


def _shared(folder: Path, seed: int, name: str) -> list[str]:
    return [
        f"trainer.seed={seed}",
        "trainer.resume_mode=disable",
        f"trainer.experiment_name={name}-seed-{seed}",
        setting("data.train_files", folder / "data" / "train.parquet"),
        setting("trainer.default_local_dir", folder / name),
    ]


def _print_results(found: dict[str, Measured], console: Console) -> None:
    table = Table(title="held-out accuracy, never rewarded", title_justify="left", show_edge=False)
    table.add_column("student")
    for column in ("sampled", "greedy", "answers first", "of those right", "of others right"):
        table.add_column(column, justify="right")
    for name, figures in found.items():
        table.add_row(name, *("-" if value is None else f"{value:.1%}" for value in asdict(figures).values()))
    console.print(table)
