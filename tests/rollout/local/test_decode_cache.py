"""The key-value cache of a changing batch against plain attention over each row's whole sequence."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gspo.groups import Group, Prompt
from gspo.models import pack
from gspo.rollout.local import block, joining
from gspo.rollout.local.cache import DecodeCache
from gspo.rollout.local.prefill import Prefill

_HEADS, _KV_HEADS, _SIZE = 4, 2, 8


@dataclass
class Row:
    """A row's whole sequence so far. (kv heads, tokens, size) each"""

    keys: Tensor
    values: Tensor
    num_own: int = 0


class Batch:
    """The cache, and beside it every row's keys and values on their own."""

    def __init__(self, seed: int = 0) -> None:
        self.cache = DecodeCache()
        self.rows: list[Row] = []
        self.draw = random.Random(seed)
        torch.manual_seed(seed)

    def random(self, batch: int, heads: int, tokens: int) -> Tensor:
        return torch.randn(batch, heads, tokens, _SIZE, dtype=torch.float64)

    def exchange(self, keep: list[int], prompt_lengths: list[int], rows_each: int = 0) -> None:
        self.rows = [self.rows[i] for i in keep]
        if not prompt_lengths:
            self.cache.exchange(torch.tensor(keep, dtype=torch.long))
            return
        prompts = [Group(Prompt(f"f:{i}", (1,) * length, "", ""), []) for i, length in enumerate(prompt_lengths)]
        packed = pack(prompts)
        prefill = Prefill(packed)
        keys, values = (self.random(1, _KV_HEADS, packed.num_tokens) for _ in range(2))
        query = self.random(1, _HEADS, packed.num_tokens)
        prefill.attend(query, keys, values, layer=0, scale=0.3, window=None, softcap=None)
        self.cache.exchange(torch.tensor(keep, dtype=torch.long), prefill, rows_each)
        for span in packed.spans:
            at = slice(span.start, span.responses_start)
            self.rows += [Row(keys[0, :, at], values[0, :, at]) for _ in range(rows_each)]

    def step(self, window: int | None = None, softcap: float | None = None) -> None:
        """One token more for every row, compared with attention row by row."""
        query = self.random(len(self.rows), _HEADS, 1)
        keys, values = (self.random(len(self.rows), _KV_HEADS, 1) for _ in range(2))
        assert self.cache.position_ids[:, 0].tolist() == [row.keys.shape[1] for row in self.rows]
        out = self.cache.attend(query, keys, values, layer=0, scale=0.3, window=window, softcap=softcap)
        self.cache.advance()
        for i, row in enumerate(self.rows):
            row.keys, row.values = torch.cat([row.keys, keys[i]], 1), torch.cat([row.values, values[i]], 1)
            row.num_own += 1
            seen = slice(None if window is None else -window, None)
            for head in range(_HEADS):
                kv_head = head // (_HEADS // _KV_HEADS)
                scores = row.keys[kv_head, seen] @ query[i, head, 0] * 0.3
                if softcap is not None:
                    scores = softcap * torch.tanh(scores / softcap)
                expected = scores.softmax(0) @ row.values[kv_head, seen]
                torch.testing.assert_close(out[i, 0, head], expected, atol=1e-12, rtol=0)

    def widths(self) -> list[tuple[int, int, int]]:
        """(rows, prompts, capacity for own tokens) of each block."""
        blocks = self.cache._blocks
        return [(len(b), len(b.prompt_lengths), b.own[0, 0][0].shape[2]) for b in blocks]


@pytest.fixture(autouse=True)
def _every_prompt_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "_SHORT_BYTES", -1)


# Prompts of no block count as short, of some, of all.
@pytest.mark.parametrize("short", [-1, 2 * 4 * 5 * _KV_HEADS * _SIZE * 8, 2**20])
@pytest.mark.parametrize("block_cost", [None, -1, 40], ids=["joined", "never joined", "joined late"])
@pytest.mark.parametrize(("window", "softcap"), [(None, None), (3, None), (6, 5.0)])
def test_a_changing_batch_attends_as_each_row_alone(
    block_cost: int | None, window: int | None, softcap: float | None, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_SHORT_BYTES", short)
    if block_cost is not None:
        monkeypatch.setattr(joining, "_BLOCK_COST", block_cost)
    batch = Batch()
    batch.exchange([], [3, 7, 1], rows_each=3)
    num_blocks = set()
    for number in range(90):
        batch.step(window, softcap)
        if number % 4 == 3:
            keep = [i for i in range(len(batch.rows)) if i == 0 or batch.draw.random() < 0.7]
            entering = [batch.draw.randint(1, 9) for _ in range(batch.draw.randint(0, 2))]
            batch.exchange(keep, entering, rows_each=batch.draw.randint(1, 3))
        if number == 70:
            batch.exchange([i for i, row in enumerate(batch.rows) if row.num_own < 30], [2], rows_each=2)
        num_blocks.add(len(batch.cache._blocks))
    assert max(num_blocks) > 1 or block_cost is None


def test_all_rows_may_leave_before_others_enter() -> None:
    batch = Batch()
    batch.exchange([], [4], rows_each=2)
    batch.step()
    batch.exchange([], [2, 5], rows_each=2)
    batch.step()
    assert batch.widths() == [(4, 2, 64)]


def test_the_young_do_not_carry_the_width_of_the_old() -> None:
    batch = Batch()
    batch.exchange([], [2], rows_each=2)
    for _ in range(200):
        batch.step()
    batch.exchange([0, 1], [2] * 8, rows_each=2)
    batch.step()
    assert batch.widths() == [(2, 1, 256), (16, 8, 64)]
    for _ in range(10):
        batch.step()
    batch.exchange([*range(18)], [2] * 4, rows_each=2)  # near the young: one block with them
    batch.step()
    assert batch.widths() == [(2, 1, 256), (24, 12, 64)]
    batch.exchange([*range(2, 18, 4)], [])  # the long rows have left, and every second prompt
    batch.step()
    assert batch.widths() == [(4, 4, 64)]


def test_a_block_that_nothing_leaves_or_joins_is_not_copied() -> None:
    batch = Batch()
    batch.exchange([], [2], rows_each=4)
    for _ in range(200):
        batch.step()
    (old,) = batch.cache._blocks
    own = old.own[0, 0][0]
    batch.exchange([*range(4)], [2] * 8, rows_each=4)
    batch.step()
    assert batch.cache._blocks[0] is old
    assert old.own[0, 0][0] is own


def test_room_that_long_rows_needed_is_given_back() -> None:
    batch = Batch()
    batch.exchange([], [2], rows_each=2)
    for _ in range(60):
        batch.step()
    batch.exchange([0, 1], [2], rows_each=2)
    for _ in range(10):
        batch.step()
    assert batch.widths() == [(4, 2, 128)]
    batch.exchange([2, 3], [])
    batch.step()
    assert batch.widths() == [(2, 1, 64)]
