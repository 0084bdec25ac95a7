"""This project's own step on a workload: the trainer's run and its functions, with a reward that costs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import torch
from flops import GroupShape
from torch import Tensor, nn
from workloads import Workload, prepare_apart, read_prompts, token_reward

from gspo.algorithms.stats import Mean, Stat, to_floats
from gspo.config import Config, load_config
from gspo.groups import Group, Outcome, Prompt
from gspo.rewards import RewardManager
from gspo.trainer import Given, TrainRun, opened

__all__ = ["Step", "gradient_norm", "open_workload", "run_step", "set_head", "settings"]

_STEPS = 100_000  # of the run: more than any measurement takes
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@dataclass(frozen=True)
class Step:
    """A step that was run.

    Attributes:
        seconds: of the whole step.
        phases: seconds of each phase, by the trainer's names; what is left of `seconds` is `other`.
        groups: lengths of what was sampled.
        metrics: the trainer's.
    """

    seconds: float
    phases: dict[str, float]
    groups: tuple[GroupShape, ...]
    metrics: dict[str, float]

    @property
    def completion_tokens(self) -> int:
        return sum(sum(group.responses) for group in self.groups)

    @property
    def prompt_tokens(self) -> int:
        """Each prompt once."""
        return sum(group.prompt for group in self.groups)


class TokenRewards:
    """Replaces the `RewardManager`: scores a response by its tokens, in this process."""

    first_error: str | None = None
    notices: Sequence[str] = ()

    def __init__(self, *, configured: bool) -> None:
        self.configured = configured

    def check(self, prompts: Sequence[Prompt]) -> None:
        """Every row can be scored."""

    def unreadable(self, prompts: Iterable[Prompt]) -> list[str]:
        """No row has a ground truth."""
        del prompts
        return []

    def figures(self, prompts: Iterable[Prompt], *, by_source: bool = True) -> set[str]:
        """The names of what `score` gives."""
        del prompts, by_source
        return {"reward/tokens/mean"}

    def says_correct(self, prompt: Prompt) -> bool:
        """A share of tokens is no accuracy."""
        del prompt
        return False

    def keep_output(self, folder: Path) -> None:
        """Nothing is printed."""

    def score(self, groups: Sequence[Group], *, by_source: bool = True) -> dict[str, Stat]:
        """Sets every response's outcome. With a discriminator there is no other reward, and this is not called."""
        del by_source
        rewards = []
        for group in groups:
            for response in group.responses:
                response.outcome = Outcome(token_reward(response.token_ids))
                rewards.append(token_reward(response.token_ids))
        return {"reward/tokens/mean": Mean(sum(rewards), float(len(rewards)))}


def gradient_norm(module: nn.Module, loss: Tensor) -> float:
    """The norm of a loss's gradient in all weights, which have none afterwards."""
    loss.backward()
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    module.zero_grad(set_to_none=True)
    return float(norm)


@torch.no_grad()
def set_head(head: nn.Module) -> None:
    """The same numbers in the discriminator's head, wherever it was made."""
    assert isinstance(head, nn.Linear)
    head.weight.copy_(0.02 * torch.randn(head.weight.shape, generator=torch.Generator().manual_seed(7)))
    head.bias.zero_()


def settings(workload: Workload, folder: Path, run_folder: Path, threads: int) -> list[str]:
    """The overrides that make a run of a workload; everything else is as a user gets it."""
    overrides = {
        "actor_rollout_ref.model.path": folder / "model",
        f"{_ACTOR}.policy_loss": "gspo",
        f"{_ACTOR}.ppo_mini_batch_size": workload.mini_batch_prompts,
        f"{_ACTOR}.optim.lr": workload.lr,
        f"{_ACTOR}.ppo_max_token_len_per_gpu": workload.micro_batch_tokens,
        f"{_ROLLOUT}.n": workload.n,
        f"{_ROLLOUT}.temperature": 1.0,
        f"{_ROLLOUT}.ignore_eos": workload.end_rate is None,
        "data.train_files": folder / "prompts.jsonl",
        "data.train_batch_size": workload.num_prompts,
        "data.max_response_length": workload.max_tokens,
        "data.shuffle": False,
        "trainer.total_training_steps": _STEPS,
        "trainer.default_local_dir": run_folder,
        "trainer.resume_mode": "disable",
        "trainer.logger": "[jsonl]",
        "trainer.num_threads": threads,
        "trainer.device": "cpu",
    }
    if workload.discriminator:
        overrides |= {"critic.enable": True, "critic.optim.lr": workload.lr}
    return [f"{key}={value}" for key, value in overrides.items()]


@contextmanager
def open_workload(workload: Workload, work: Path, threads: int, further: Sequence[str] = ()) -> Iterator[TrainRun]:
    """A run of the workload, set up by the trainer.

    Args:
        workload: what to run.
        work: folder of the workloads' models and prompts; written where they are not there.
        threads: of torch.
        further: overrides of the configuration, `key=value`.
    """
    folder = prepare_apart(workload, work)
    with TemporaryDirectory(dir=folder) as temporary:
        config: Config = load_config(
            overrides=[*settings(workload, folder, Path(temporary) / "run", threads), *further]
        )
        rewards = cast(RewardManager, TokenRewards(configured=not workload.discriminator))
        with opened(config, Given(reward_manager=rewards)) as run:
            read = [" ".join(run.tokenizer.convert_ids_to_tokens(list(prompt.token_ids))) for prompt in run.train_data]
            assert read == [row["prompt"] for row in read_prompts(folder)], "a prompt was read as other tokens"
            yield run


def run_step(run: TrainRun) -> Step:
    """One training step, as the trainer's loop runs it, without logging, validation and checkpoints."""
    step = run.step + 1
    with run.clock("step"):
        taken = run.take_step(step)
    run.step = step
    phases = {name.removeprefix("timing_s/"): seconds for name, seconds in run.clock.pop().items()}
    seconds = phases.pop("step")
    phases["other"] = seconds - sum(phases.values())
    shapes = tuple(
        GroupShape(
            len(group.prompt.token_ids),
            tuple(len(response) for response in group.responses),
            len(group.teacher) if group.teacher is not None else 0,
        )
        for group in taken.groups
    )
    return Step(seconds, phases, shapes, to_floats(taken.stats))
