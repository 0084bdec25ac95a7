"""GSPO in float32, bfloat16 and float16: what rounding clips, how far it turns an update, and whether it learns.

    python experiments/precision.py rounding --model HuggingFaceTB/SmolLM2-135M-Instruct
    python experiments/precision.py curves --seeds 1 2 3

`rounding` samples from the model and makes the updates of a step at learning rate 0, where every ratio should be 1.
Old log-probabilities come once from the updates' own passes and once from a pass over the whole batch; the gradient is
taken under two splits of the batch. `curves` trains the quickstart's task with each type of products.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from gspo.algorithms.stats import to_floats
from gspo.commands.quickstart import prepare, quickstart_config
from gspo.config import Config, load_config
from gspo.groups import Group, GroupBatch, Outcome, Prompt
from gspo.models import load_actor_tokenizer, load_policy
from gspo.models.policy import Policy
from gspo.observe import PhaseClock
from gspo.observe.jsonl import read_jsonl
from gspo.rollout import EngineContext, SamplingParams, make_engine
from gspo.trainer import train
from gspo.trainer.advantages import add_advantages
from gspo.trainer.batching import Cut
from gspo.trainer.old_log_probs import add_log_probs, add_log_probs_of_updates
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.ratio_noise import RatioNoise
from gspo.trainer.sft import sft
from gspo.trainer.trained import Actor
from gspo.world import Alone

RESULTS = Path(__file__).parent / "results" / "precision"
DTYPES = ("float32", "bfloat16", "float16")
ACCURACY = "val-core/reasoning_gym/spell_backward/acc/mean@4"
QUESTIONS = (
    "What is the capital of France?",
    "Tom has 3 apples and buys 5 more. How many has he now?",
    "Write a short poem about the sea.",
    "Explain why the sky is blue.",
    "List five animals that live in water.",
    "What is 17 times 6?",
    "Translate 'good morning' into German.",
    "How do I boil an egg?",
)


def keys(dtype: str) -> list[str]:
    """The settings of products in this type."""
    mixed = "actor_rollout_ref.model.mixed_precision"
    return [f"{mixed}=false"] if dtype == "float32" else [f"{mixed}=true", f"{mixed}_dtype={dtype}"]


class Capturing(Actor):
    """Keeps the gradient of the first optimizer batch and takes no step."""

    gradient: torch.Tensor | None = None

    def step(self) -> dict[str, Any]:
        if self.loss_scale is not None:
            self.loss_scale.unscale(self.module.parameters())
        if self.gradient is None:
            parameters = [parameter for parameter in self.module.parameters() if parameter.grad is not None]
            self.gradient = torch.cat([parameter.grad.flatten() for parameter in parameters])  # type: ignore[union-attr]
        self.optimizer.zero_grad(set_to_none=True)
        return {}


def configured(model: str, dtype: str) -> Config:
    actor = "actor_rollout_ref.actor"
    batch = [f"data.train_batch_size={len(QUESTIONS)}", f"{actor}.ppo_mini_batch_size=2", f"{actor}.policy_loss=gspo"]
    split = [f"{actor}.ppo_max_token_len_per_gpu=1024", f"{actor}.skip_zero_advantages=false"]
    return load_config(overrides=[f"actor_rollout_ref.model.path={model}", *batch, *split, *keys(dtype)])


def sample(model: str, num_responses: int, max_tokens: int) -> list[Group]:
    """Responses of the model in float32, the same for every type, with rewards drawn at random."""
    config = configured(model, "float32")
    tokenizer = load_actor_tokenizer(config.policy_model)
    policy = load_policy(config.policy_model, tokenizer, "cpu", 256, train=False)
    prompts = []
    for number, question in enumerate(QUESTIONS):
        messages = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        prompts.append(Prompt(f"question:{number}", tuple(ids), text, "questions"))
    engine = make_engine("local", EngineContext(policy, tokenizer, 1, 32))
    groups = engine.generate(prompts, SamplingParams(max_tokens=max_tokens), n=num_responses, step=1)
    draw = random.Random(1)
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(draw.random())
    return groups


def updates(policy: Policy, config: Config, groups: list[Group], cut: Cut, *, own: bool) -> dict[str, Any]:
    """The figures of all updates of a step that moves nothing, with the first optimizer batch's `gradient`."""
    batch, world = GroupBatch.from_groups(groups), Alone()
    batch["token_level_rewards"] = batch["token_level_scores"]
    add_advantages(batch, config.algorithm, world)
    if own:
        add_log_probs_of_updates(batch, policy, 1.0, cut, world, step=1)
    else:
        add_log_probs(batch, policy, 1.0, Cut(16384), world)
    actor = Capturing(policy, replace(config.actor.optim, lr=0.0), 10)
    noise = RatioNoise(policy, 1.0, cut, config.loss_facts, (3e-4, 4e-4), 1, lambda _: None, world)
    update = PolicyUpdate(actor, config.actor, 1.0, cut, PhaseClock(), world, noise=noise)
    figures: dict[str, Any] = dict(to_floats(update.update(batch, 1)))
    return figures | {"gradient": actor.gradient}


def rounding(model: str, num_responses: int, max_tokens: int) -> list[dict[str, Any]]:
    """A row for each type and each source of old log-probabilities."""
    groups, rows = sample(model, num_responses, max_tokens), []
    for dtype in DTYPES:
        config = configured(model, dtype)
        policy = load_policy(config.policy_model, load_actor_tokenizer(config.policy_model), "cpu", 256)
        for own in (True, False):
            wide = Cut.of_actor(config.actor, 1)
            figures = updates(policy, config, groups, wide, own=own)
            other = updates(policy, config, groups, replace(wide, max_responses=3), own=own)
            first, second = (both.pop("gradient") for both in (figures, other))
            rows.append(
                {
                    "products": dtype,
                    "old": "the updates' passes" if own else "one pass over the batch",
                    "clipped": figures["actor/seq_clipfrac"],
                    "ratio_min": figures["actor/seq_ratio/min"],
                    "ratio_max": figures["actor/seq_ratio/max"],
                    "ratio_noise": figures["actor/ratio_noise"],
                    "update_turned": float((first - second).norm() / first.norm()),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    return rows


def rounding_table(rows: list[dict[str, Any]]) -> str:
    columns = "products", "old log-probabilities from", "responses clipped", "ratio from", "to", "`actor/ratio_noise`"
    lines = [f"| {' | '.join(columns)} | gradient, another split |", "|---|---|---:|---:|---:|---:|---:|"]
    for row in rows:
        lines.append(
            f"| {row['products']} | {row['old']} | {row['clipped']:.1%} | 1 {row['ratio_min'] - 1:+.1e} | "
            f"1 {row['ratio_max'] - 1:+.1e} | {row['ratio_noise']:.1e} | {row['update_turned']:.1%} |"
        )
    return "\n".join(lines) + "\n"


def curves(seeds: list[int], out: Path) -> dict[str, dict[int, list[tuple[int, float]]]]:
    """Held-out accuracy by step of the quickstart's task, for each type and seed. What is done is not run again."""
    found: dict[str, dict[int, list[tuple[int, float]]]] = {dtype: {} for dtype in DTYPES}
    for seed in seeds:
        folder = out / f"seed-{seed}"
        if not (folder / "supervised" / "huggingface").exists():
            prepare(folder, seed)
            sft(quickstart_config(folder, seed, supervised=True))
        for dtype in DTYPES:
            run = folder / dtype
            if not (run / "report.html").exists():
                base = quickstart_config(folder, seed)
                settings = [*keys(dtype), f"trainer.default_local_dir={run}", "trainer.logger=[jsonl]"]
                train(load_config(base=base, overrides=settings))
            records = read_jsonl(run / "metrics.jsonl")
            found[dtype][seed] = [(line["step"], line[ACCURACY]) for line in records if ACCURACY in line]
    return found


def draw_curves(found: dict[str, dict[int, list[tuple[int, float]]]], results: Path) -> str:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    lines = ["| products | seed | first | last |", "|---|---:|---:|---:|"]
    for color, (dtype, by_seed) in zip(("C0", "C1", "C2"), found.items(), strict=True):
        for number, (seed, curve) in enumerate(by_seed.items()):
            axes.plot(*zip(*curve, strict=True), color=color, alpha=0.8, label=dtype if number == 0 else None)
            lines.append(f"| {dtype} | {seed} | {curve[0][1]:.1%} | {curve[-1][1]:.1%} |")
    axes.set(xlabel="GSPO step", ylabel="held-out accuracy", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(results / "curves.png", dpi=150)
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("rounding", "curves"))
    parser.add_argument("--model", default="HuggingFaceTB/SmolLM2-135M-Instruct")
    parser.add_argument("--n", type=int, default=8, help="responses of each question")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/precision"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    args.results.mkdir(parents=True, exist_ok=True)
    if args.part == "rounding":
        rows = rounding(args.model, args.n, args.max_tokens)
        (args.results / "rounding.json").write_text(json.dumps(rows, indent=1) + "\n")
        table = rounding_table(rows)
    else:
        found = curves(args.seeds, args.out)
        (args.results / "curves.json").write_text(json.dumps(found, indent=1) + "\n")
        table = draw_curves(found, args.results)
    (args.results / f"{args.part}.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
