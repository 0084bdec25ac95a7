"""TRL's GRPOTrainer on a workload, step by step on command; runs in TRL's own environment.

    VENV/bin/python benchmarks/trl_worker.py --workload W1 --work DIR --threads 2

GSPO as TRL has it: `importance_sampling_level="sequence"`, the paper's clip range and mean over responses, its own
padded path, float32, no gradient checkpointing, no logging, evaluation or saving. One step here is a rollout and all
its optimizer steps. Commands: `step`, `check FILE` (see `loss_check.py`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from datasets import Dataset
from loss_check import CLIP_HIGH, CLIP_LOW, CheckGroup, read_groups
from machine import peak_memory_mb
from serving import Replies
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer
from workloads import WORKLOADS, Workload, read_prompts, token_reward

__all__ = ["main"]

_STEPS = 100_000  # more than any measurement takes


class Timers:
    """Seconds of a trainer's methods since the last `pop`, and how many tokens were generated."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.completion_tokens = 0

    def wrap(self, owner: Any, method: str, name: str | Callable[[], str]) -> None:
        """Times every call of a method under this name."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            key = name if isinstance(name, str) else name()
            start = time.perf_counter()
            result = inner(*args, **kwargs)
            self.seconds[key] = self.seconds.get(key, 0.0) + time.perf_counter() - start
            return result

        setattr(owner, method, timed)

    def pop(self, seconds: float) -> dict[str, Any]:
        """The figures of a step that took so many seconds."""
        timed, self.seconds = self.seconds, {}
        tokens, self.completion_tokens = self.completion_tokens, 0
        # the loss's own log-probabilities are part of `loss`
        phases = {name: timed.get(name, 0.0) for name in ("gen", "old_log_prob", "loss", "backward", "optimizer")}
        phases["other"] = seconds - sum(phases.values())
        return {"seconds": seconds, "phases": phases, "completion_tokens": tokens, "peak_memory_mb": peak_memory_mb()}


class Paced(TrainerCallback):
    """Lets the trainer go on by one rollout and its optimizer steps at a time."""

    def __init__(self, workload: Workload, replies: Replies, timers: Timers) -> None:
        self._updates = workload.mini_batches
        self._replies, self._commands, self._timers = replies, replies.commands(), timers
        self._start = 0.0
        self.check: Callable[[Path], dict[str, float]] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Waits for the next command before a rollout."""
        del args, control
        if state.global_step % self._updates:
            return
        if state.global_step == 0:
            self._replies.send({"ready": True})
        for name, argument in self._commands:
            if name == "step":
                self._timers.pop(0.0)
                self._start = time.perf_counter()
                return
            assert name == "check"
            assert self.check is not None
            self._replies.send(self.check(Path(argument)))
        raise SystemExit(0)  # nobody asks any more

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Answers after the last optimizer step of a rollout."""
        del args, control
        if state.global_step % self._updates == 0:
            self._replies.send(self._timers.pop(time.perf_counter() - self._start))


def make_trainer(workload: Workload, folder: Path, output: Path, micro_batch: int | None) -> GRPOTrainer:
    """The trainer.

    Args:
        workload: what to run.
        folder: of its model and prompts.
        output: a folder that it may write to.
        micro_batch: responses of a forward and backward pass; None: those of an optimizer step.
    """
    responses = workload.mini_batch_prompts * workload.n
    micro_batch = micro_batch or responses
    accumulation = responses // micro_batch

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        return [token_reward(ids) for ids in completion_ids]

    config = GRPOConfig(
        output_dir=str(output),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * workload.mini_batches,
        num_generations=workload.n,
        max_completion_length=workload.max_tokens,
        temperature=1.0,
        importance_sampling_level="sequence",
        loss_type="grpo",
        epsilon=CLIP_LOW,
        epsilon_high=CLIP_HIGH,
        beta=0.0,
        learning_rate=workload.lr,
        lr_scheduler_type="constant",
        weight_decay=0.01,
        max_grad_norm=1.0,
        max_steps=_STEPS,
        shuffle_dataset=False,
        logging_strategy="no",
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    return GRPOTrainer(
        model=str(folder / "model"),
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": row["prompt"]} for row in read_prompts(folder)]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model", padding_side="left"),
    )


def watch(trainer: GRPOTrainer, timers: Timers) -> None:
    """Times what TRL's step consists of, as far as its methods show it."""
    timers.wrap(trainer, "_generate_single_turn", "gen")
    timers.wrap(
        trainer,
        "_get_per_token_logps_and_entropies",
        lambda: "loss_forward" if torch.is_grad_enabled() else "old_log_prob",
    )
    timers.wrap(trainer, "_compute_loss", "loss")
    timers.wrap(trainer.accelerator, "backward", "backward")
    create = trainer.create_optimizer

    def create_watched(*args: Any, **kwargs: Any) -> Any:
        optimizer = create(*args, **kwargs)
        timers.wrap(optimizer, "step", "optimizer")
        return optimizer

    trainer.create_optimizer = create_watched
    generate = trainer._generate_single_turn

    def counted(*args: Any, **kwargs: Any) -> Any:
        completion_ids, log_probs = generate(*args, **kwargs)
        timers.completion_tokens += sum(map(len, completion_ids))
        return completion_ids, log_probs

    trainer._generate_single_turn = counted


def check_loss(trainer: GRPOTrainer, groups: Sequence[CheckGroup]) -> dict[str, float]:
    """`loss` and `grad_norm` of TRL's own loss on given responses."""
    prompts = [group.prompt for group in groups for _ in group.responses]
    responses = [response for group in groups for response in group.responses]
    old = [values for group in groups for values in group.old_log_probs]
    before, width = max(map(len, prompts)), max(map(len, responses))
    pad = trainer.processing_class.pad_token_id
    inputs = {
        "prompt_ids": torch.tensor([[pad] * (before - len(ids)) + ids for ids in prompts]),
        "prompt_mask": torch.tensor([[0] * (before - len(ids)) + [1] * len(ids) for ids in prompts]),
        "completion_ids": torch.tensor([ids + [pad] * (width - len(ids)) for ids in responses]),
        "completion_mask": torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids in responses]),
        "old_per_token_logps": torch.tensor([values + [0.0] * (width - len(values)) for values in old]),
        "advantages": torch.tensor([value for group in groups for value in group.advantages]),
    }
    model = trainer.model
    model.eval()  # there is no accumulation outside of training
    loss = trainer._compute_loss(model, inputs)
    loss.backward()
    norm = torch.linalg.vector_norm(
        torch.stack([torch.linalg.vector_norm(p.grad) for p in model.parameters() if p.grad is not None])
    )
    model.zero_grad(set_to_none=True)
    model.train()
    return {"loss": float(loss.detach()), "grad_norm": float(norm)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description="Serve TRL's steps on a workload.")
    parser.add_argument("--workload", choices=sorted(WORKLOADS), required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch", type=int)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    workload = WORKLOADS[options.workload]
    with Replies.open() as replies, TemporaryDirectory() as output:
        timers = Timers()
        trainer = make_trainer(workload, options.work / workload.name, Path(output), options.micro_batch)
        watch(trainer, timers)
        paced = Paced(workload, replies, timers)
        paced.check = lambda file: check_loss(trainer, read_groups(file))
        trainer.add_callback(paced)
        trainer.train()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
