"""GAD's step as its authors' code does it: padded batches, the prompt with every response, a teacher for each student.

The baseline of workload W4. Written with transformers' own attention (sdpa) and `generate`, and with this project's
losses and optimizer, so that both compute the same. Where the released code (a fork of verl) wastes more than its way
of batching asks for, this does not: sequences are padded to the longest of the batch and not to the configured limit,
logits are formed at response positions only, and passes are as large as memory lets them be on a small machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flops import GroupShape
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from workloads import END, SPECIAL, Workload, read_prompts

from gspo.algorithms import compute_discriminator_loss, compute_grpo_outcome_advantage, compute_policy_loss_gspo
from gspo.config.schema import OptimConfig
from gspo.observe import PhaseClock
from gspo.trainer.trained import clip_and_step, make_optimizer

__all__ = ["Padded", "ReleasedGad"]

# Responses of a forward and backward pass. Larger passes are no faster on a CPU and take memory in proportion: with 32
# of 512 tokens, the discriminator's two halves of a pair hold 9 GB of activations on W4.
_MICRO_BATCH = 16
_PAD = SPECIAL.index("<pad>")


@dataclass(frozen=True)
class Padded:
    """Sequences of a prompt and a response each: prompts padded on the left, responses on the right.

    Attributes:
        ids, mask: both parts side by side; the mask is 1 on real tokens. (rows, prompt width + response width)
        response_mask: that of the responses. (rows, response width)
    """

    ids: Tensor
    mask: Tensor
    response_mask: Tensor

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]]) -> Padded:
        """One row for each prompt with its response."""
        before, after = max(map(len, prompts)), max(map(len, responses))
        ids = torch.full((len(prompts), before + after), _PAD)
        mask = torch.zeros_like(ids)
        for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
            start, end = before - len(prompt), before + len(response)
            ids[row, start:end] = torch.tensor([*prompt, *response])
            mask[row, start:end] = 1
        return cls(ids, mask, mask[:, before:].float())

    @property
    def inputs(self) -> dict[str, Any]:
        """What a model takes; positions count real tokens."""
        positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
        return {"input_ids": self.ids, "attention_mask": self.mask, "position_ids": positions, "use_cache": False}

    @property
    def last(self) -> Tensor:
        """The position of each row's last real token. (rows,)"""
        return self.ids.shape[1] - self.response_mask.shape[1] + self.response_mask.sum(-1).long() - 1

    def rows(self, part: range) -> Padded:
        """Some of the rows, at the same width."""
        return Padded(_cut(self.ids, part), _cut(self.mask, part), _cut(self.response_mask, part))


def _cut(tensor: Tensor, rows: range) -> Tensor:
    return tensor[rows.start : rows.stop]


class ReleasedGad:
    """The student and the discriminator with their optimizers, and a step of both.

    Args:
        workload: W4 or one like it.
        folder: of its model and prompts.
    """

    def __init__(self, workload: Workload, folder: Path) -> None:
        self._workload = workload
        path = folder / "model"
        self.student = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa")
        decoder = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").model
        head = nn.Linear(workload.hidden_size, 1)
        nn.init.normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.discriminator = nn.ModuleDict({"decoder": decoder, "head": head})
        tokenizer = AutoTokenizer.from_pretrained(path)
        rows = read_prompts(folder)
        self._prompts: list[list[int]] = tokenizer([row["prompt"] for row in rows])["input_ids"]
        texts = tokenizer([row["teacher_response"] for row in rows])["input_ids"]
        self._teachers = [[*ids, END][: workload.max_tokens] for ids in texts]
        optim = OptimConfig(lr=workload.lr)
        self._clip_grad = optim.clip_grad
        self._optimizers = {
            "student": make_optimizer(self.student, optim),
            "discriminator": make_optimizer(self.discriminator, optim),
        }
        self.clock = PhaseClock()

    def step(self) -> list[GroupShape]:
        """Sample, score, compare, update both; `clock` has the seconds under the trainer's names of the phases."""
        n, clock = self._workload.n, self.clock
        prompts = [prompt for prompt in self._prompts for _ in range(n)]
        teachers = [teacher for teacher in self._teachers for _ in range(n)]
        with clock("gen"):
            responses = self._generate(prompts)
        batch, taught = Padded.of(prompts, responses), Padded.of(prompts, teachers)
        with clock("reward"), torch.no_grad():
            scores = torch.cat([self.score(batch.rows(part)) for part in self._parts(range(len(prompts)))])
        with clock("old_log_prob"), torch.no_grad():
            old = torch.cat([self.log_probs(batch.rows(part)) for part in self._parts(range(len(prompts)))])
        with clock("adv"):
            rewards = torch.zeros_like(batch.response_mask)
            rewards[torch.arange(len(rewards)), batch.response_mask.sum(-1).long() - 1] = scores
            index = torch.arange(len(self._prompts)).repeat_interleave(n).numpy()
            advantages, _ = compute_grpo_outcome_advantage(rewards, batch.response_mask, index)
        with clock("update_critic"):
            for mini_batch in self._mini_batches():
                for part in self._parts(mini_batch):
                    share = len(part) / len(mini_batch)
                    (share * self.discriminator_loss(batch.rows(part), taught.rows(part))).backward()
                clip_and_step(self.discriminator, self._optimizers["discriminator"], self._clip_grad)
        with clock("update_actor"):
            for mini_batch in self._mini_batches():
                for part in self._parts(mini_batch):
                    share = len(part) / len(mini_batch)
                    (share * self.policy_loss(batch.rows(part), _cut(old, part), _cut(advantages, part))).backward()
                clip_and_step(self.student, self._optimizers["student"], self._clip_grad)
        return [
            GroupShape(len(prompt), tuple(map(len, responses[row * n : (row + 1) * n])), len(teacher))
            for row, (prompt, teacher) in enumerate(zip(self._prompts, self._teachers, strict=True))
        ]

    def log_probs(self, batch: Padded) -> Tensor:
        """Log-probability of every response token. (rows, response width)"""
        width = batch.response_mask.shape[1]
        logits = self.student(**batch.inputs, logits_to_keep=width + 1).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, batch.ids[:, -width:, None])[..., 0]

    def score(self, batch: Padded) -> Tensor:
        """The discriminator's number at each row's last token. (rows,)"""
        hidden = self.discriminator["decoder"](**batch.inputs).last_hidden_state
        numbers: Tensor = self.discriminator["head"](hidden)[..., 0]
        return numbers.gather(1, batch.last[:, None])[:, 0]

    def policy_loss(self, batch: Padded, old_log_prob: Tensor, advantages: Tensor) -> Tensor:
        """GSPO's loss of an optimizer batch, with the paper's clip range."""
        loss, _ = compute_policy_loss_gspo(old_log_prob, self.log_probs(batch), advantages, batch.response_mask)
        return loss

    def discriminator_loss(self, batch: Padded, taught: Padded) -> Tensor:
        """The Bradley-Terry loss of an optimizer batch: a teacher's row with each student's."""
        ones = torch.ones(len(batch.ids), 1)
        loss, _ = compute_discriminator_loss(self.score(batch)[:, None], self.score(taught)[:, None], ones, ones)
        return loss

    def _mini_batches(self) -> list[range]:
        """The rows of each optimizer step."""
        rows, size = len(self._prompts) * self._workload.n, self._workload.mini_batch_prompts * self._workload.n
        return [range(start, start + size) for start in range(0, rows, size)]

    def _parts(self, rows: range) -> list[range]:
        """The rows of each pass. Losses are means over rows, so that parts weigh as they have rows."""
        return [rows[start : start + _MICRO_BATCH] for start in range(0, len(rows), _MICRO_BATCH)]

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        before = max(map(len, prompts))
        ids = torch.tensor([[_PAD] * (before - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (before - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        out = self.student.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=self._workload.max_tokens,
            eos_token_id=END,
            pad_token_id=_PAD,
        )[:, before:].tolist()
        return [row[: row.index(END) + 1] if END in row else row for row in out]
