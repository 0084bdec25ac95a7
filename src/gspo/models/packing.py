"""Lays groups out as one row of unique tokens: each prompt once, its responses behind it, no padding.

    [prompt a][response a1][response a2] ... [prompt b][response b1] ...

Positions restart behind the prompt for every response, so that each response sees exactly the sequence it was sampled
in. A teacher's response goes behind those of its group like one more. A log-probability is read where its token is
predicted: the first token of every response from the prompt's last token, the others from their own predecessor. The
last token of a response predicts nothing and is left out, unless the caller reads a score there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gspo.groups import Group, GroupBatch, Response
from gspo.models.transfer import to_device

__all__ = ["GroupSpan", "PackedRow", "micro_batches", "pack", "teacher_of"]


@dataclass(frozen=True)
class GroupSpan:
    """The place of one group in the row: its prompt's start and length, and the lengths of its responses in order."""

    start: int
    prompt_length: int
    response_lengths: tuple[int, ...]

    @property
    def responses_start(self) -> int:
        return self.start + self.prompt_length

    @property
    def end(self) -> int:
        return self.responses_start + sum(self.response_lengths)


@dataclass(frozen=True)
class PackedRow:
    """One row of groups as a model takes it.

    Attributes:
        input_ids: the tokens. (1, tokens)
        position_ids: position of each token in its own sequence. (1, tokens)
        spans: the place of each group.
        sources: index in the row from which each response token is predicted. (predicted,)
        targets: the response tokens, response after response. (predicted,)
        rows, columns: place of each in the padded [responses, width] tensors. (predicted,)
        ends: index of each response's last token (the prompt's, where it is empty); only with `keep_last`.
            (responses,)
        teacher_ends: the same of each group's teacher; only with `with_teacher`. (groups,)
    """

    input_ids: Tensor
    position_ids: Tensor
    spans: tuple[GroupSpan, ...]
    sources: Tensor
    targets: Tensor
    rows: Tensor
    columns: Tensor
    ends: Tensor | None = None
    teacher_ends: Tensor | None = None

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[1]

    def scatter(self, values: Tensor, shape: torch.Size | tuple[int, int]) -> Tensor:
        """Per-token values (predicted,) as a padded [responses, width] tensor, zero elsewhere. Differentiable."""
        return values.new_zeros(shape).index_put((self.rows, self.columns), values)

    def gather(self, padded: Tensor) -> Tensor:
        """The inverse of `scatter`: the entries of a padded tensor at the predicted tokens. (predicted,)"""
        return padded[self.rows, self.columns]


def pack(
    groups: list[Group],
    *,
    keep_last: bool = False,
    with_teacher: bool = False,
    device: torch.device | str = "cpu",
) -> PackedRow:
    """Packs groups into one row.

    Args:
        groups: at least one; responses may be empty.
        keep_last: also run each response's last token through the model, for a score that is read there.
        with_teacher: run each group's teacher too, once, whole; it has no targets and no row of its own.
        device: where the tensors go.

    Raises:
        ValueError: a teacher is asked for, and a group has none.
    """
    ids: list[int] = []
    positions: list[int] = []
    spans: list[GroupSpan] = []
    sources: list[int] = []
    targets: list[int] = []
    columns: list[int] = []
    counts: list[int] = []
    ends: list[int] = []
    teacher_ends: list[int] = []
    for group in groups:
        prompt = group.prompt.token_ids
        start, last = len(ids), len(ids) + len(prompt) - 1
        ids.extend(prompt)
        positions.extend(range(len(prompt)))
        lengths = []
        for response in group.responses:
            tokens = response.token_ids
            inputs = tokens if keep_last else tokens[:-1]
            first = len(ids)
            if tokens:
                sources.append(last)
                sources.extend(range(first, first + len(tokens) - 1))
            ids.extend(inputs)
            positions.extend(range(len(prompt), len(prompt) + len(inputs)))
            targets.extend(tokens)
            columns.extend(range(len(tokens)))
            counts.append(len(tokens))
            lengths.append(len(inputs))
            ends.append(first + len(inputs) - 1 if inputs else last)
        if with_teacher:
            taught = teacher_of(group).token_ids
            teacher_ends.append(len(ids) + len(taught) - 1 if taught else last)
            ids.extend(taught)
            positions.extend(range(len(prompt), len(prompt) + len(taught)))
            lengths.append(len(taught))
        spans.append(GroupSpan(start, len(prompt), tuple(lengths)))

    def tensor(values: list[int]) -> Tensor:
        return to_device(torch.tensor(values, dtype=torch.long), device)

    rows = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts, dtype=torch.long))
    return PackedRow(
        input_ids=tensor(ids)[None],
        position_ids=tensor(positions)[None],
        spans=tuple(spans),
        sources=tensor(sources),
        targets=tensor(targets),
        rows=to_device(rows, device),
        columns=tensor(columns),
        ends=tensor(ends) if keep_last else None,
        teacher_ends=tensor(teacher_ends) if with_teacher else None,
    )


def teacher_of(group: Group) -> Response:
    """The group's teacher.

    Raises:
        ValueError: it has none.
    """
    if group.teacher is None:
        raise ValueError(f"the group of {group.prompt.uid} has no teacher's response: set Group.teacher first")
    return group.teacher


def micro_batches(
    batch: GroupBatch, max_tokens: int, max_responses: int | None = None, *, with_teacher: bool = False
) -> Iterator[GroupBatch]:
    """Cuts a batch into parts of at most `max_tokens` unique tokens (and `max_responses` responses), in order.

    A group larger than that on its own is cut between its responses, each part with the prompt again; a single
    response larger than the budget still goes as one part. Losses that are normalised by the whole batch do not
    depend on the cut. With `with_teacher` every part of a group has its teacher, whose tokens count; without, none has.
    """
    parts: list[tuple[Group, int]] = []  # a piece of a group, and the batch row of its first response
    held_tokens = held_responses = 0
    room = len(batch) if max_responses is None else max_responses
    row = 0
    for group in batch.groups:
        first, offset = row, 0
        while offset < len(group.responses):
            piece = _fitting_piece(group, offset, max_tokens, room, with_teacher)
            if parts and (held_tokens + piece.num_tokens > max_tokens or held_responses + len(piece.responses) > room):
                yield _part(batch, parts)
                parts, held_tokens, held_responses = [], 0, 0
            parts.append((piece, first + offset))
            held_tokens += piece.num_tokens
            held_responses += len(piece.responses)
            offset += len(piece.responses)
        row += len(group.responses)
    if parts:
        yield _part(batch, parts)


def _fitting_piece(group: Group, offset: int, max_tokens: int, max_responses: int, with_teacher: bool) -> Group:
    """As many responses from `offset` on as fit, at least one."""
    teacher = teacher_of(group) if with_teacher else None
    tokens, count = len(group.prompt.token_ids) + (len(teacher) if teacher is not None else 0), 0
    for response in group.responses[offset : offset + max(1, max_responses)]:
        if count and tokens + len(response) > max_tokens:
            break
        tokens += len(response)
        count += 1
    return Group(group.prompt, group.responses[offset : offset + count], teacher)


def _part(batch: GroupBatch, parts: list[tuple[Group, int]]) -> GroupBatch:
    groups = [group for group, _ in parts]
    rows = torch.cat([torch.arange(first, first + len(group.responses)) for group, first in parts])
    index = torch.repeat_interleave(torch.arange(len(groups)), torch.tensor([len(g.responses) for g in groups]))
    if not batch.tensors:
        return GroupBatch(groups, {}, index.numpy())
    keep = to_device(rows, batch["response_mask"].device)
    return GroupBatch(groups, {name: tensor[keep] for name, tensor in batch.tensors.items()}, index.numpy())
