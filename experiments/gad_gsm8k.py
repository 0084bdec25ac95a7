"""GAD on real text: a small language model learns GSM8K's worked solutions, of which only the texts are seen.

    gspo data gsm8k --source FOLDER --out data/gsm8k
    python experiments/gad_gsm8k.py --model SmolLM2-135M-Instruct --data data/gsm8k --out runs/gad_gsm8k

The model is the student and the discriminator's start. One run goes through GAD's stages; the teacher's text is the
worked solution, and whether the answer is right is measured and never rewarded. Rows with a long question or solution
are left out, so that no teacher's text is cut and a step is cheap. Called again, it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from gad_gsm8k_report import write_report
from transformers import AutoTokenizer

from gspo.cli import main as gspo
from gspo.data.rows import read_table
from gspo.data.sources import write_parquet

WARMUP, DISCRIMINATOR_ONLY, ADVERSARIAL = 12, 10, 20
WARMUP_LR = 5e-5
# Tokens of the longest question with its template and of the longest solution with its end token.
LONGEST_QUESTION, LONGEST_SOLUTION = 100, 48
# A student may write more than the teacher ever does: what is cut has no end token and gives itself away.
LONGEST_RESPONSE = 64
MEASURED_IN_TRAINING = 24


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face folder of a small chat model")
    parser.add_argument("--data", type=Path, required=True, help="folder that `gspo data gsm8k` wrote")
    parser.add_argument("--out", type=Path, default=Path("runs/gad_gsm8k"))
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results" / "gad_gsm8k")
    args = parser.parse_args()
    for split in ("train", "test"):
        select_short(args.model, args.data / f"{split}.parquet", args.out / "data" / f"{split}.parquet")
    run(["train", "--config-name", "gad_gspo_config", *settings(args.model, args.out)])
    folder, held_out = args.out / "run", args.out / "data" / "test.parquet"
    students = {
        "start": args.model,
        "after warmup": str(folder / "checkpoints" / f"global_step_{WARMUP}"),
        "after GAD": str(folder),
    }
    answers = {
        name: answer(model, held_out, args.out / "eval" / f"{number}")
        for number, (name, model) in enumerate(students.items())
    }
    stages = {"discriminator alone": WARMUP, "adversarial": WARMUP + DISCRIMINATOR_ONLY}
    print(write_report(args.results, folder / "metrics.jsonl", stages, answers, read_table(held_out).rows))


def run(arguments: list[str]) -> None:
    """A command of gspo; ends where it fails."""
    if code := gspo(arguments):
        raise SystemExit(code)


def answer(model: str, held_out: Path, folder: Path) -> list[dict[str, Any]]:
    """Two sampled answers of a student to every held-out question, drawn with the same random numbers for each."""
    file = folder / "responses.jsonl"
    if not file.exists():
        lengths = [f"data.max_response_length={LONGEST_RESPONSE}", f"data.max_prompt_length={LONGEST_QUESTION}"]
        asked = ["--data", str(held_out), "--n", "2", "--temperature", "0.8", "--out", str(folder)]
        run(["eval", model, *asked, "--set", *lengths])
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def select_short(model: str, source: Path, target: Path) -> None:
    """Writes the rows whose question and solution are short."""
    if target.exists():
        return
    tokenizer = AutoTokenizer.from_pretrained(model)

    def is_short(row: dict[str, Any]) -> bool:
        question = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        solution = tokenizer(row["teacher_response"], add_special_tokens=False)["input_ids"]
        return len(question) <= LONGEST_QUESTION and len(solution) + 1 <= LONGEST_SOLUTION

    rows = [row for row in read_table(source).rows if is_short(row)]
    print(f"{write_parquet(rows, target).path}: {len(rows)} rows")


def settings(model: str, out: Path) -> list[str]:
    """The run: 4 prompts x 4 responses a step, one optimizer step each."""
    return [
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={out / 'data' / 'train.parquet'}",
        f"data.val_files={out / 'data' / 'test.parquet'}",
        f"data.val_max_samples={MEASURED_IN_TRAINING}",
        f"data.max_response_length={LONGEST_RESPONSE}",
        f"data.max_prompt_length={LONGEST_QUESTION}",
        "data.train_batch_size=4",
        "actor_rollout_ref.rollout.n=4",
        "actor_rollout_ref.rollout.val_kwargs.do_sample=true",
        "actor_rollout_ref.rollout.val_kwargs.temperature=0.8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=4",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=1024",
        "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=1024",
        "actor_rollout_ref.actor.optim.lr=1e-5",
        "critic.ppo_max_token_len_per_gpu=1024",
        "critic.optim.lr=2e-5",
        f"trainer.gad_warmup_steps={WARMUP}",
        f"trainer.gad_warmup_lr={WARMUP_LR}",
        f"trainer.critic_warmup={DISCRIMINATOR_ONLY}",
        f"trainer.total_training_steps={DISCRIMINATOR_ONLY + ADVERSARIAL}",
        f"trainer.save_freq={WARMUP}",
        "trainer.test_freq=6",
        "trainer.log_val_generations=16",
        f"trainer.default_local_dir={out / 'run'}",
    ]


if __name__ == "__main__":
    main()
