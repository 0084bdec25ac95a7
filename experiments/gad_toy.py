"""Mode seeking against mode covering: the toy experiment of GAD (arXiv 2511.10643), on the package's own functions.

The teacher is a mixture of two bumps over ten classes and shows samples only. The student is ONE discrete Gaussian, so
it cannot be the teacher: it must choose between covering both bumps and matching one. A "response" is one class, that
is one token; the discriminator is a table of ten scores.

    SeqKD   cross-entropy on the teacher's samples      agg_loss
    GAD     discriminator: Bradley-Terry on pairs       compute_discriminator_loss
            student: reward minus the group's mean      compute_grpo_outcome_advantage, norm_adv_by_std_in_grpo=False
                     one step on each batch             compute_policy_loss_gspo

All runs of a variant (starts x seeds) are one batch of tensors. Each run draws from its own generator, so its numbers
do not depend on the others in the batch.

    python experiments/gad_toy.py --out experiments/results/gad_toy
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gad_toy_report import Outcome, write_report
from torch import Tensor

from gspo.algorithms import (
    agg_loss,
    compute_discriminator_loss,
    compute_grpo_outcome_advantage,
    compute_policy_loss_gspo,
)

NUM_CLASSES = 10
BUMPS, SPREAD = (2.0, 7.0), 0.8  # the large one and the small one, each so wide
STARTS = ((1.0, 1.0), (3.0, 3.0), (4.5, 2.0), (7.0, 1.0))  # mu, s: two at the large bump, between, on the small one
FAR_START = ((8.0, 2.0),)  # beyond the small bump: the slow case
SEEDS = (1, 2, 3)
PROMPTS, SAMPLES = 32, 8
STEPS = 4000
STUDENT_LR, DISCRIMINATOR_LR = 0.02, 0.5
_CHUNK = 100  # steps whose random numbers are drawn at once
_TRACE_EVERY = 20


@dataclass(frozen=True)
class Variant:
    """One way to train the student.

    Attributes:
        name: as in the table.
        student_warmup: steps of cross-entropy on the teacher before the adversarial stage, out of all its steps.
        critic_warmup: steps in which only the discriminator learns.
        frozen: whether the discriminator stays as it is after that.
        adversarial: if not, all steps are cross-entropy on the teacher: SeqKD.
        normalise: whether advantages are divided by the group's standard deviation, as in GRPO.
        adam: whether the student is trained by Adam; plain gradient descent if not.
        starts: mu and s of the students at the start.
        length: how many times STEPS the student is trained.
        large: the teacher's mass on the large bump.
    """

    name: str
    student_warmup: int = 0
    critic_warmup: int = 10
    frozen: bool = False
    adversarial: bool = True
    normalise: bool = False
    adam: bool = False
    starts: tuple[tuple[float, float], ...] = STARTS
    length: int = 1
    large: float = 0.8


VARIANTS = (
    Variant("SeqKD", adversarial=False),
    Variant("GAD"),
    Variant("GAD after SeqKD", student_warmup=1000),
    Variant("GAD, no D warmup", critic_warmup=0),
    Variant("GAD, advantages / std", normalise=True),
    Variant("GAD, frozen D", critic_warmup=200, frozen=True),
    Variant("GAD, Adam", adam=True),
    Variant("SeqKD, far start", adversarial=False, starts=FAR_START, length=2),
    Variant("GAD, far start", starts=FAR_START, length=2),
    Variant("SeqKD, 0.6 / 0.4", adversarial=False, large=0.6),
    Variant("GAD, 0.6 / 0.4", large=0.6),
)


def teacher_probabilities(large: float) -> Tensor:
    """The mixture of discrete Gaussians, weights `large` and 1 - large, each normalised over the ten classes."""
    classes = torch.arange(NUM_CLASSES, dtype=torch.float64)
    first, second = (torch.softmax(-((classes - mean) ** 2) / (2 * SPREAD**2), 0) for mean in BUMPS)
    return large * first + (1 - large) * second


def student_log_probs(parameters: Tensor) -> Tensor:
    """log softmax of -(y - mu)^2 / (2 s^2). (runs, 2) of mu and s -> (runs, NUM_CLASSES)"""
    classes = torch.arange(NUM_CLASSES, dtype=parameters.dtype)
    mu, s = parameters[:, :1], parameters[:, 1:]
    return torch.log_softmax(-((classes - mu) ** 2) / (2 * s**2), dim=-1)


class Runs:
    """The runs of one variant side by side: students, discriminators and random numbers."""

    def __init__(self, variant: Variant, seeds: Sequence[int]) -> None:
        pairs = [(mu, s, seed) for mu, s in variant.starts for seed in seeds]
        self.num = len(pairs)
        self.students = torch.tensor([[mu, s] for mu, s, _ in pairs], dtype=torch.float64, requires_grad=True)
        self.scores = torch.zeros(self.num, NUM_CLASSES, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.Adam if variant.adam else torch.optim.SGD
        self.student_optimizer = optimizer([self.students], lr=STUDENT_LR)
        self.score_optimizer = torch.optim.SGD([self.scores], lr=DISCRIMINATOR_LR)
        self.teacher_cdf = teacher_probabilities(variant.large).cumsum(0)
        self.generators = [np.random.default_rng(seed) for _, _, seed in pairs]
        self.group_index = np.arange(self.num * PROMPTS).repeat(SAMPLES)
        self.mask = torch.ones(self.num * PROMPTS * SAMPLES, 1)
        self._drawn = np.empty((0,))
        self._used = 0

    def draw(self) -> tuple[Tensor, Tensor]:
        """This step's teacher classes (runs, PROMPTS) and the students' (runs, PROMPTS * SAMPLES), by inverse CDF."""
        if self._used == len(self._drawn):
            shape = (_CHUNK, PROMPTS * (SAMPLES + 1))
            self._drawn = np.stack([generator.random(shape) for generator in self.generators], axis=1)
            self._used = 0
        uniform = torch.from_numpy(self._drawn[self._used])
        self._used += 1
        students_cdf = student_log_probs(self.students.detach()).exp().cumsum(-1)
        teacher = torch.searchsorted(self.teacher_cdf, uniform[:, :PROMPTS].contiguous())
        student = torch.searchsorted(students_cdf, uniform[:, PROMPTS:].contiguous())
        return teacher.clamp(max=NUM_CLASSES - 1), student.clamp(max=NUM_CLASSES - 1)

    def imitate(self, teacher: Tensor) -> None:
        """One step of cross-entropy on the teacher's samples."""
        log_probs = student_log_probs(self.students).gather(1, teacher).reshape(-1, 1)
        loss = agg_loss(-log_probs, torch.ones_like(log_probs), "token-mean")
        self._step(self.student_optimizer, loss)

    def discriminate(self, teacher: Tensor, student: Tensor) -> None:
        """One Bradley-Terry step: one teacher sample for the eight of its prompt."""
        student_values = self.scores.gather(1, student).reshape(-1, 1)
        teacher_values = self.scores.gather(1, teacher).reshape(-1, 1)
        # The teacher is scored once a group, and its score is paired with each of the students'.
        teacher_values = teacher_values[torch.from_numpy(self.group_index)]
        loss, _ = compute_discriminator_loss(student_values, teacher_values, self.mask, self.mask)
        self._step(self.score_optimizer, loss)

    def reinforce(self, student: Tensor, rewards: Tensor, normalise: bool) -> None:
        """One GSPO step on rewards (runs * PROMPTS * SAMPLES, 1)."""
        advantages, _ = compute_grpo_outcome_advantage(
            rewards, self.mask, self.group_index, norm_adv_by_std_in_grpo=normalise
        )
        log_probs = student_log_probs(self.students).gather(1, student).reshape(-1, 1)
        loss, _ = compute_policy_loss_gspo(log_probs.detach(), log_probs, advantages, self.mask)
        self._step(self.student_optimizer, loss)

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad()
        (loss * self.num).backward()  # a loss is a mean over all runs; each run's gradient is that of its own mean
        optimizer.step()


def train(variant: Variant, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> Outcome:
    """Trains all runs of a variant, `steps * variant.length` student steps each, and returns where they went."""
    starts, steps = variant.starts, steps * variant.length
    runs = Runs(variant, seeds)
    trace = [runs.students.detach().clone()]
    warmup = variant.student_warmup if variant.adversarial else steps
    for step in range(1, steps + (variant.critic_warmup if variant.adversarial else 0) + 1):
        teacher, student = runs.draw()
        adversarial_step = step - warmup
        if adversarial_step <= 0:
            runs.imitate(teacher)
        else:
            # Rewards come from the discriminator as it was before this step's update.
            rewards = runs.scores.detach().gather(1, student).reshape(-1, 1)
            if not variant.frozen or adversarial_step <= variant.critic_warmup:
                runs.discriminate(teacher, student)
            if adversarial_step > variant.critic_warmup:
                runs.reinforce(student, rewards, variant.normalise)
        if step % _TRACE_EVERY == 0:
            trace.append(runs.students.detach().clone())
    return Outcome.of(
        variant.name,
        starts=[start for start in starts for _ in seeds],
        seeds=[seed for _ in starts for seed in seeds],
        trace=torch.stack(trace).numpy(),
        trace_every=_TRACE_EVERY,
        student=student_log_probs(runs.students.detach()).exp().numpy(),
        teacher=teacher_probabilities(variant.large).numpy(),
        scores=runs.scores.detach().numpy() if variant.adversarial else None,
    )


def main() -> None:
    """Trains every variant and writes the table, the figure and the numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for results.json, table.md and figure.png")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"student steps of each run (default {STEPS})")
    args = parser.parse_args()
    torch.set_num_threads(1)  # the tensors are too small to share
    outcomes = []
    for variant in VARIANTS:
        start = time.perf_counter()
        outcomes.append(train(variant, steps=args.steps))
        print(f"{outcomes[-1].line()}  ({time.perf_counter() - start:.0f} s)", flush=True)
    for path in write_report(outcomes, args.out):
        print(path)


if __name__ == "__main__":
    main()
