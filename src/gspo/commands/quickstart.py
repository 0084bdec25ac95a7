"""From nothing to a trained model: data, a small transformer, a short supervised start, GSPO, and what came of it.

The task is reasoning-gym's spell_backward. The supervised start shows the model careless answers: most only repeat the
word, some spell it backward. It learns both habits, as a base model knows many; which one is right, only the reward
says.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from gspo.config import Config, load_config
from gspo.config.overrides import setting
from gspo.data.gym_source import write_reasoning_gym
from gspo.models.scratch import make_model_folder
from gspo.observe.jsonl import read_jsonl
from gspo.shell import gspo_command
from gspo.trainer import train
from gspo.trainer.sft import sft

__all__ = ["quickstart", "quickstart_config"]

_TASK = "spell_backward"
_WORDS = {"min_word_len": 3, "max_word_len": 6}
_NUM_TRAIN, _NUM_VAL = 4000, 200
# The words that open every prompt are one token of the tokenizer made here, so that the model reads the word at once.
_OPENING = "Spell this word backward (example: sun -> nus): "
_CORRECT_DEMONSTRATIONS = 0.3
_SFT_STEPS = 300


def quickstart(out: Path, seed: int = 1) -> int:
    """Runs it all in the folder `out/seed-N` and prints what was learned. Returns the exit code."""
    console = Console(highlight=False)
    start = time.perf_counter()
    folder = out / f"seed-{seed}"
    console.print(f"[bold]1 of 4[/]  {_NUM_TRAIN} questions to train on, {_NUM_VAL} held out: reasoning-gym's {_TASK}")
    prepare(folder, seed)
    console.print(f"[bold]2 of 4[/]  supervised start: {_CORRECT_DEMONSTRATIONS:.0%} of the answers shown are right")
    sft(quickstart_config(folder, seed, supervised=True))
    console.print("[bold]3 of 4[/]  GSPO: the reward is 1 for the right answer and 0 for any other")
    run = train(quickstart_config(folder, seed))
    console.print("[bold]4 of 4[/]  what came of it")
    summarize(run.folder, console, time.perf_counter() - start)
    return 0


def prepare(folder: Path, seed: int) -> None:
    """Writes the data, the careless demonstrations and the untrained model."""
    data = folder / "data"
    write_reasoning_gym(_TASK, data, _NUM_TRAIN, _NUM_VAL, seed, _WORDS)
    rows = pq.read_table(data / "train.parquet").to_pylist()
    draw = random.Random(seed)
    for row in rows:
        word = json.loads(row["extra_info"]["entry"])["metadata"]["word"]
        row["answer"] = row["answer"] if draw.random() < _CORRECT_DEMONSTRATIONS else word
    pq.write_table(pa.Table.from_pylist(rows), data / "demonstrations.parquet")
    make_model_folder(
        folder / "untrained", hidden_size=128, num_layers=4, max_positions=128, phrases=[_OPENING], seed=seed
    )


def quickstart_config(folder: Path, seed: int, *, supervised: bool = False) -> Config:
    """The configuration of the supervised start or of the GSPO run, as a user would write it on the command line."""
    shared = [f"trainer.seed={seed}", "trainer.resume_mode=disable", f"trainer.experiment_name=quickstart-seed-{seed}"]
    if not supervised:
        return load_config(
            config_name="quickstart",
            overrides=[
                *shared,
                setting("actor_rollout_ref.model.path", folder / "supervised" / "huggingface"),
                setting("data.train_files", folder / "data" / "train.parquet"),
                setting("data.val_files", folder / "data" / "test.parquet"),
                setting("trainer.default_local_dir", folder / "gspo"),
            ],
        )
    return load_config(
        overrides=[
            *shared,
            setting("actor_rollout_ref.model.path", folder / "untrained"),
            "actor_rollout_ref.actor.optim.lr=2e-3",
            "actor_rollout_ref.actor.optim.lr_warmup_steps=10",
            "actor_rollout_ref.actor.optim.lr_scheduler_type=linear",
            setting("data.train_files", folder / "data" / "demonstrations.parquet"),
            "data.train_batch_size=64",
            "data.max_response_length=8",
            f"trainer.total_training_steps={_SFT_STEPS}",
            setting("trainer.default_local_dir", folder / "supervised"),
            "trainer.logger=[jsonl]",
        ]
    )


def summarize(folder: Path, console: Console, seconds: float) -> None:
    """Prints held-out accuracy, from start to end, and where to look next."""
    accuracy = f"val-core/reasoning_gym/{_TASK}/acc/mean@4"
    records = read_jsonl(folder / "metrics.jsonl")
    curve = [(record["step"], record[accuracy]) for record in records if accuracy in record]
    table = Table(title="held-out accuracy, 4 sampled answers a question", title_justify="left", show_edge=False)
    table.add_column("step", justify="right")
    table.add_column("accuracy", justify="right")
    table.add_column("")
    for step, value in curve:
        table.add_row(str(step), f"{value:.1%}", "█" * round(40 * value))
    console.print(table)
    (_, first), (_, last) = curve[0], curve[-1]
    console.print(f"\n[bold]{first:.1%} -> {last:.1%}[/] in {seconds / 60:.1f} minutes, everything included\n")
    console.print(
        f"report   {folder / 'report.html'}   (open it in a browser: every curve, with what is healthy)", soft_wrap=True
    )
    console.print(
        f"model    {folder / 'huggingface'}   (AutoModelForCausalLM.from_pretrained loads it)", soft_wrap=True
    )
    console.print(f"samples  {folder / 'samples.jsonl'}\n")
    console.print(f"next: another seed       {gspo_command('quickstart', '--seed', '2')}", soft_wrap=True)
    console.print(f"      every setting      {gspo_command('config', '--config-name', 'quickstart')}", soft_wrap=True)
    console.print(
        f"      your own data      {gspo_command('data', '--help')}, then gspo train; docs/index.md leads on",
        soft_wrap=True,
    )
