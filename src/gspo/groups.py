"""The types that flow through a run: a prompt, its responses, the group they form, and the padded view of a batch.

A group (one prompt, its n responses and, for distillation, one teacher response) is the unit of sampling, packing,
sharding, shuffling and logging. Tokens are sampled once and never re-tokenised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["FinishReason", "Group", "GroupBatch", "Outcome", "Prompt", "Response"]

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Prompt:
    """One row of a dataset, tokenised once.

    Attributes:
        uid: identity of the row, stable between runs: "<file name>:<row>". Groups and random draws are keyed by it.
        token_ids: the prompt's tokens with the chat template applied, at least one.
        text: the same as text, for logs.
        data_source: the row's `data_source`; selects the default reward and names the validation metrics.
        ground_truth: the row's `reward_model.ground_truth`, handed to the reward function untouched.
        extra_info: the row's `extra_info`, handed to the reward function untouched.
        teacher_response: the teacher's text, where the row has one.
    """

    uid: str
    token_ids: tuple[int, ...]
    text: str
    data_source: str
    ground_truth: Any = None
    extra_info: dict[str, Any] = field(default_factory=dict)
    teacher_response: str | None = None

    def __post_init__(self) -> None:
        if not self.token_ids:
            raise ValueError(f"prompt {self.uid} has no tokens; a model needs at least one token to predict from")


@dataclass(frozen=True)
class Outcome:
    """What a reward function says of one response: a value, an abstention or an error; never a silent zero.

    Attributes:
        value: the reward, where there is one; None where the scorer abstained or failed.
        extras: further figures of the scorer, logged under their names; `acc` is 1 for a correct answer and else 0.
        answer: what the scorer read as the response's answer, its vote in a majority; None where there is none.
        abstained: why the scorer could not judge this response ("ground truth does not parse").
        error: what went wrong in the scorer ("timed out after 5 s").
        terms: (weight, value) of each reward that `value` adds up, by name; empty where it is one number.
    """

    value: float | None = None
    extras: dict[str, float] = field(default_factory=dict)
    answer: str | None = None
    abstained: str | None = None
    error: str | None = None
    terms: dict[str, tuple[float, float]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if sum(part is not None for part in (self.value, self.abstained, self.error)) != 1:
            raise ValueError("an Outcome is exactly one of a value, an abstention and an error")


@dataclass
class Response:
    """One sampled (or teacher) response.

    Attributes:
        token_ids: the tokens as sampled, with the end token where one was sampled. May be empty.
        log_probs: log-probability of each token under the sampling policy at its temperature, before top-p/k. (T,)
        text: the tokens decoded without special tokens and cut at a stop string.
        finish_reason: "stop" (end token or stop string) or "length" (cut at the token limit).
        loss_mask: which tokens the policy wrote, where not all of them are (tool turns); None means all. (T,)
        outcome: what the reward said; None until it is scored.
        entropy: mean, over the tokens the policy wrote, of the entropy of the distribution that each was drawn from, in
            nats, at the temperature and before top-p/k; None where the engine does not measure it.
    """

    token_ids: list[int]
    log_probs: list[float]
    text: str
    finish_reason: FinishReason
    loss_mask: list[bool] | None = None
    outcome: Outcome | None = None
    entropy: float | None = None

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def reward(self) -> float | None:
        return None if self.outcome is None else self.outcome.value


@dataclass
class Group:
    """A prompt with its responses and, for distillation, one teacher response.

    Attributes:
        place: its place among the groups that all ranks sample for a training step.
    """

    prompt: Prompt
    responses: list[Response]
    teacher: Response | None = None
    place: int = field(default=0, compare=False)

    @property
    def num_tokens(self) -> int:
        """Unique tokens of the group: the prompt once, and every response."""
        teacher = len(self.teacher) if self.teacher is not None else 0
        return len(self.prompt.token_ids) + sum(map(len, self.responses)) + teacher


@dataclass
class GroupBatch:
    """Groups and the padded [responses, length] tensors on which the algorithms are written.

    Rows follow the groups' order, responses of a group side by side. Only scored responses belong in a batch: those a
    reward abstained from are taken out (and counted) before it is made.

    Attributes:
        groups: the groups, each with at least one response.
        tensors: per-token tensors of shape (responses, width), zero where `response_mask` is zero.
        group_index: for each row the number of its group in `groups`. (responses,)
        weightless: it replaces a pass that other ranks make, and counts nowhere.
    """

    groups: list[Group]
    tensors: dict[str, Tensor]
    group_index: np.ndarray
    weightless: bool = False

    @classmethod
    def without_tensors(cls, groups: Sequence[Group]) -> GroupBatch:
        """The groups alone, for a model that reads them and needs no padded tensor."""
        return cls(list(groups), {}, _group_index(groups))

    @classmethod
    def from_groups(
        cls, groups: Sequence[Group], device: torch.device | str = "cpu", *, scored: bool = True
    ) -> GroupBatch:
        """Lays the responses of groups out as padded tensors; no group gives tensors without a row.

        Creates `response_mask` (the tokens the policy wrote, as float), `rollout_log_probs` and
        `token_level_scores` (each response's reward at its last written token; at the first place where none is
        written, so that it still counts in its group's baseline). With `scored=False`, for a model that is yet to
        score them, there is no `token_level_scores`.

        Raises:
            ValueError: every group is empty, or a response has no reward.
        """
        responses = [response for group in groups for response in group.responses]
        if groups and not responses:
            raise ValueError("a batch needs at least one response; every group given is empty")
        width = max([1, *map(len, responses)])
        mask, log_probs, scores = (torch.zeros(len(responses), width) for _ in range(3))
        for row, response in enumerate(responses):
            if scored and response.reward is None:
                raise ValueError("a batch holds scored responses only; take out those without a reward first")
            reward, length = response.reward or 0.0, len(response)
            if length == 0:
                scores[row, 0] = reward
                continue
            written = torch.ones(length) if response.loss_mask is None else torch.tensor(response.loss_mask).float()
            mask[row, :length] = written
            log_probs[row, :length] = torch.tensor(response.log_probs)
            scores[row, int(written.nonzero().max()) if written.any() else 0] = reward
        tensors = {"response_mask": mask, "rollout_log_probs": log_probs * mask}
        if scored:
            tensors["token_level_scores"] = scores
        return cls(list(groups), {name: tensor.to(device) for name, tensor in tensors.items()}, _group_index(groups))

    def __len__(self) -> int:
        """Number of responses."""
        return len(self.group_index)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        if value.shape != self["response_mask"].shape:
            raise ValueError(f"{name} has shape {tuple(value.shape)}, not {tuple(self['response_mask'].shape)}")
        self.tensors[name] = value

    @property
    def num_tokens(self) -> Tensor:
        """Tokens the policy wrote, the normaliser of token-mean losses."""
        return self["response_mask"].sum()

    def select(self, group_numbers: Sequence[int]) -> GroupBatch:
        """The batch of these groups only, in this order; tensors keep their width."""
        rows = [np.flatnonzero(self.group_index == number) for number in group_numbers]
        keep = torch.as_tensor(np.concatenate([np.arange(0), *rows]), device=self["response_mask"].device)
        groups = [self.groups[number] for number in group_numbers]
        return GroupBatch(groups, {name: tensor[keep] for name, tensor in self.tensors.items()}, _group_index(groups))


def _group_index(groups: Sequence[Group]) -> np.ndarray:
    """For each response the number of its group. (responses,)"""
    return np.repeat(np.arange(len(groups)), [len(group.responses) for group in groups])
