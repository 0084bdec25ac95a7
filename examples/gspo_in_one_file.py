"""GSPO in one file: a small transformer learns to spell words backward, and every step of its training is in the open.

    python examples/gspo_in_one_file.py

Group Sequence Policy Optimization is arXiv 2507.18071; equations and sections named below are that paper's. What
happens here is what `gspo quickstart` does: on the same machine, with the same seed and number of threads, held-out
accuracy is the same digit for digit. Read it from top to bottom: settings, task, supervised start, GSPO.

Of the library it uses the mathematics (`gspo.algorithms`), the types (`gspo.groups`), the policy over packed groups
(`gspo.models`) and the sampler (`gspo.rollout`). What `gspo train` adds is around them: configuration, checkpoints,
reports, rewards that may hang or fail, models on a GPU, other algorithms. Nothing is kept of a run of this file.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from reasoning_gym.factory import create_dataset
from torch import nn
from torch.optim import AdamW
from transformers import PreTrainedTokenizerBase

from gspo.algorithms import PolicyLossSettings, agg_loss, compute_grpo_outcome_advantage, compute_policy_loss_gspo
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.models import Policy, load_model, load_tokenizer, micro_batches, prepare_model, verify_packed_forward
from gspo.models.scratch import make_model_folder
from gspo.rollout import LocalEngine, SamplingParams

Item = TypeVar("Item")


@dataclass(frozen=True)
class Settings:
    """The quickstart's values. What the configuration of `gspo train` has too goes by its name there."""

    seed: int = 1  # of the questions, the untrained weights, the order of the prompts and every draw
    total_training_steps: int = 120
    train_batch_size: int = 64  # prompts a step
    n: int = 8  # responses to each: G in the paper
    ppo_mini_batch_size: int = 16  # prompts an optimizer step: four of them in each step, as in section 5.1
    max_response_length: int = 8  # tokens: six letters and the end token are enough
    clip_ratio_low: float = 3e-4  # section 5.1: a ratio of whole responses moves far less than one of tokens
    clip_ratio_high: float = 4e-4
    lr: float = 1e-4
    lr_warmup_steps: int = 10
    weight_decay: float = 0.01
    clip_grad: float = 1.0
    max_token_len: int = 16384  # tokens in one pass through the model; bounds the memory and changes nothing else
    test_freq: int = 20  # steps between looks at the held-out questions
    test_n: int = 4  # responses to each of them
    supervised_steps: int = 300
    supervised_lr: float = 2e-3


# The task: reasoning-gym's spell_backward.

NUM_TRAIN, NUM_HELD_OUT = 4000, 200
# The words that open every prompt. They are one token of the tokenizer made here, so that the word is read at once.
OPENING = "Spell this word backward (example: sun -> nus): "
CORRECT_DEMONSTRATIONS = 0.3


def make_prompts(tokenizer: PreTrainedTokenizerBase, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """Distinct questions, tokenised: those to train on, and those held out."""
    total = NUM_TRAIN + NUM_HELD_OUT
    entries: dict[str, dict[str, Any]] = {}
    # Words repeat: twenty draws for each question are more than enough.
    for entry in create_dataset("spell_backward", size=20 * total, seed=seed, min_word_len=3, max_word_len=6):
        entries.setdefault(entry["question"], entry)
        if len(entries) == total:
            break
    # Random draws are keyed by the prompt's uid: these are the uids of the quickstart's rows.
    uids = [f"test.parquet:{row}" for row in range(NUM_HELD_OUT)] + [f"train.parquet:{row}" for row in range(NUM_TRAIN)]
    prompts = []
    for uid, entry in zip(uids, entries.values(), strict=True):
        messages = [{"role": "user", "content": entry["question"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        token_ids = tokenizer(text, add_special_tokens=False)["input_ids"]  # a template writes its own start token
        prompts.append(Prompt(uid, tuple(token_ids), text, "spell_backward", ground_truth=entry["answer"]))
    return prompts[NUM_HELD_OUT:], prompts[:NUM_HELD_OUT]


def spelled_backward(prompt: Prompt, text: str) -> float:
    """The reward: 1 for the right answer, 0 for any other. It may be any function of a prompt and a response's text."""
    return float(text.strip().lower() == prompt.ground_truth.lower())


# For both trainings: the order of the data, and the optimizer.


def shuffled(items: Sequence[Item], batch_size: int, seed: int) -> Iterator[list[Item]]:
    """Batches without end, each epoch in a new order. What does not fill an epoch's last batch is left out of it."""
    if len(items) < batch_size:
        raise ValueError(f"{len(items)} prompts do not fill a batch of {batch_size}: lower train_batch_size")
    for epoch in count():
        # numpy keeps raw bits the same between its versions, and `permutation` not.
        order = np.argsort(np.random.PCG64([seed, epoch]).random_raw(len(items)), kind="stable")
        for start in range(0, len(items) - batch_size + 1, batch_size):
            yield [items[index] for index in order[start : start + batch_size]]


def make_optimizer(model: nn.Module, weight_decay: float) -> AdamW:
    """AdamW; vectors (norms and biases) have no weight decay. Each step brings its own learning rate."""
    matrices = [parameter for parameter in model.parameters() if parameter.dim() >= 2]
    vectors = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    decayed, free = {"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}
    return AdamW([decayed, free], fused=True)


def optimizer_step(model: nn.Module, optimizer: AdamW, lr: float, clip_grad: float) -> None:
    """One step on the gradients gathered so far, clipped to a norm of `clip_grad`; they are cleared."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    nn.utils.clip_grad_norm_(model.parameters(), clip_grad, error_if_nonfinite=True)
    optimizer.step()
    optimizer.zero_grad()


# The supervised start. What is never sampled is never rewarded: the model is first shown careless answers. Most repeat
# the word, some spell it backward, and it learns both habits, as a base model knows many.


def careless_answers(prompts: Sequence[Prompt], seed: int) -> list[str]:
    """An answer to each prompt: right with a probability of CORRECT_DEMONSTRATIONS, else the word as it stands."""
    draw, truths = random.Random(seed), [str(prompt.ground_truth) for prompt in prompts]
    return [truth if draw.random() < CORRECT_DEMONSTRATIONS else truth[::-1] for truth in truths]


def supervise(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    answers: Sequence[str],
    settings: Settings,
) -> None:
    """Cross-entropy on given answers, a mean over the tokens of each batch. The prompts are not learned."""
    groups = []
    for prompt, answer in zip(prompts, answers, strict=True):
        token_ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        groups.append(Group(prompt, [Response(token_ids, [0.0] * len(token_ids), answer, "stop")]))
    batches = shuffled(groups, settings.train_batch_size, settings.seed)
    optimizer = make_optimizer(policy.model, settings.weight_decay)
    warmup, after = settings.lr_warmup_steps, max(1, settings.supervised_steps - settings.lr_warmup_steps)
    for step in range(1, settings.supervised_steps + 1):
        batch = GroupBatch.from_groups(next(batches), scored=False)
        for part in micro_batches(batch, settings.max_token_len):
            log_prob, _ = policy.log_probs(part)
            # Divided by the tokens of the whole batch, so that its parts add up to one mean, wherever it is cut.
            agg_loss(-log_prob, part["response_mask"], "token-mean", batch_num_tokens=batch.num_tokens).backward()
        # Up in a line, then down in a line towards zero: the first is the smaller one until the warmup is over.
        factor = min(step / warmup, 1 - (step - 1 - warmup) / after)
        optimizer_step(policy.model, optimizer, settings.supervised_lr * factor, settings.clip_grad)


# GSPO.


def train(
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    held_out: Sequence[Prompt],
    reward: Callable[[Prompt, str], float],
    settings: Settings,
) -> list[float]:
    """Trains the policy, in place, and prints how it does. Returns the mean held-out reward, look by look."""
    # The engine samples with the policy's own weights: what an optimizer step changes is sampled from at once.
    engine = LocalEngine(policy, tokenizer, seed=settings.seed, max_num_seqs=1024)
    # Temperature 1, and no top-p or top-k: the samples come from pi itself, whose probabilities the ratio is made of.
    sampling = SamplingParams(max_tokens=settings.max_response_length)
    optimizer = make_optimizer(policy.model, settings.weight_decay)
    batches = shuffled(prompts, settings.train_batch_size, settings.seed)
    start = time.perf_counter()

    def look() -> float:
        # A draw depends on seed, step, uid and the response's number. Here the step is 0 each time, so that the curve
        # shows the policy and not the luck of the draw.
        groups = engine.generate(held_out, sampling, n=settings.test_n, step=0)
        return float(np.mean([reward(group.prompt, response.text) for group in groups for response in group.responses]))

    curve = [look()]
    print("step  held-out  sampled  clipped  seconds")
    print(f"{0:4}  {curve[0]:8.1%}  {'':7}  {'':7}  {time.perf_counter() - start:7.1f}", flush=True)
    for step in range(1, settings.total_training_steps + 1):
        # 1. Sample G responses to each prompt, and let the reward judge each. Their tokens stay as they were sampled.
        groups = engine.generate(next(batches), sampling, n=settings.n, step=step)
        for group in groups:
            for response in group.responses:
                response.outcome = Outcome(reward(group.prompt, response.text))
        batch = GroupBatch.from_groups(groups)  # the groups, and beside them padded tensors of (responses, tokens)

        # 2. Compare within each group: A_i = (R_i - mean(R)) / std(R) (eq. 6), the same for every token of a response.
        batch["advantages"], _ = compute_grpo_outcome_advantage(
            batch["token_level_scores"], batch["response_mask"], batch.group_index
        )

        # 3. log pi_old of every token. The sampler noted it, with these weights in this precision. From another
        # engine, or in bfloat16, it would not be the policy's own: there, take policy.log_probs under torch.no_grad.
        batch["old_log_probs"] = batch["rollout_log_probs"]

        # 4. Several optimizer steps on these samples. In the first, pi is pi_old and every ratio is 1; then the two
        # part, which is what ratio and clip are for.
        lr, num_clipped = settings.lr * min(1.0, step / settings.lr_warmup_steps), 0.0
        for first in range(0, len(groups), settings.ppo_mini_batch_size):
            last = min(first + settings.ppo_mini_batch_size, len(groups))
            num_clipped += update(policy, optimizer, batch.select(range(first, last)), lr, settings)

        if step % settings.test_freq == 0 or step == settings.total_training_steps:
            curve.append(look())
            sampled, clipped = float(batch["token_level_scores"].sum()) / len(batch), num_clipped / len(batch)
            seconds = time.perf_counter() - start
            print(f"{step:4}  {curve[-1]:8.1%}  {sampled:7.1%}  {clipped:7.1%}  {seconds:7.1f}", flush=True)
    return curve


def update(policy: Policy, optimizer: AdamW, mini_batch: GroupBatch, lr: float, settings: Settings) -> float:
    """One optimizer step on one mini-batch. Returns how many of its responses were clipped."""
    # Where all responses to a prompt were right, or all wrong, advantages and gradient are zero: they count in the mean
    # and need not run. One group always does, as AdamW's moments fade and weights decay in a step without gradient too.
    moves = (mini_batch["advantages"] != 0).any(-1).numpy()
    teaching = mini_batch.select(np.unique(mini_batch.group_index[moves]).tolist() or [0])
    loss_settings = PolicyLossSettings(
        clip_ratio_low=settings.clip_ratio_low,
        clip_ratio_high=settings.clip_ratio_high,
        global_batch_info={"global_batch_size": len(mini_batch)},  # the mean is over all its responses, in every part
    )
    num_clipped = 0.0
    for part in micro_batches(teaching, settings.max_token_len):
        # A part runs as one row of tokens, without padding, in which a prompt stands once for all its responses.
        log_prob, _ = policy.log_probs(part)
        # s_i  = exp(mean_t [log pi(y_it) - log pi_old(y_it)])              the ratio of a whole response (eq. 7)
        # loss = -mean_i min(s_i A_i, clip(s_i, 1 - low, 1 + high) A_i)     (eq. 5)
        loss, stats = compute_policy_loss_gspo(
            part["old_log_probs"], log_prob, part["advantages"], part["response_mask"], config=loss_settings
        )
        loss.backward()  # the gradients of the parts add up
        num_clipped += float(stats["actor/seq_clipfrac"]) * len(part)
    optimizer_step(policy.model, optimizer, lr, settings.clip_grad)
    return num_clipped


def main(arguments: Sequence[str] | None = None) -> None:
    """Data, model, supervised start and GSPO, from the command line."""
    parser = argparse.ArgumentParser(description="GSPO in one file, on a CPU. Further settings: the top of the file.")
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of all that is drawn (%(default)s)")
    parser.add_argument("--steps", type=int, default=Settings.total_training_steps, help="steps of GSPO (%(default)s)")
    parser.add_argument("--supervised-steps", type=int, default=Settings.supervised_steps, help="(%(default)s)")
    parser.add_argument("--model", help="folder or hub name to start from, without the supervised start")
    parser.add_argument("--threads", type=int, help="threads of torch (as many as it takes)")
    args = parser.parse_args(arguments)
    settings = Settings(seed=args.seed, total_training_steps=args.steps, supervised_steps=args.supervised_steps)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    start = time.perf_counter()

    with tempfile.TemporaryDirectory() as scratch:
        # A Llama of four layers, 128 wide, with random weights, and a tokenizer with a token for each character.
        name = args.model or str(make_model_folder(Path(scratch), phrases=[OPENING], seed=settings.seed))
        model, tokenizer = load_model(name, path_key="--model"), load_tokenizer(name)
        policy = Policy(model, compute=prepare_model(model))
    verify_packed_forward(policy)  # a model that packing does not fit would train all the same, on wrong numbers
    prompts, held_out = make_prompts(tokenizer, settings.seed)
    print(f"{len(prompts)} questions to train on, {len(held_out)} held out; the first: {prompts[0].text.strip()}")
    if args.model is None:
        print(f"supervised start: {settings.supervised_steps} steps, {CORRECT_DEMONSTRATIONS:.0%} of the answers right")
        supervise(policy, tokenizer, prompts, careless_answers(prompts, settings.seed), settings)
    print("GSPO: right answers to held-out questions and among a step's samples, and samples that the clip left out")
    curve = train(policy, tokenizer, prompts, held_out, spelled_backward, settings)
    print(f"{curve[0]:.1%} -> {curve[-1]:.1%} in {time.perf_counter() - start:.0f} seconds, everything included")


if __name__ == "__main__":
    main()
