"""Rows as verl's workers get them: filled up, spread over ranks, and back in their own order."""

from __future__ import annotations

import pytest
import torch
from verl.utils import tensordict_utils as tu

from gspo.integrations.verl.rows import Cut, Row, Rows


def row(prompt: int, response: int, weight: float) -> Row:
    """Tokens that tell the rows apart: its prompt's are the weight's tens, its response's the same plus one."""
    start = int(weight * 10)
    return Row(torch.full((prompt,), start), torch.full((response,), start + 1), weight)


ROWS = [row(2, 3, 1.0), row(1, 1, 2.0), row(4, 9, 3.0), row(3, 2, 4.0), row(5, 6, 5.0)]


@pytest.mark.parametrize(("dp_size", "multiple", "sent"), [(1, 1, 5), (1, 4, 8), (2, 2, 6), (2, 8, 8), (3, 3, 6)])
def test_each_row_is_sent_once_with_its_weight_and_comes_back_in_its_place(
    dp_size: int, multiple: int, sent: int
) -> None:
    rows = Rows(ROWS, dp_size, multiple)
    data = rows.batch(temperature=1.0, epochs=1)
    assert len(data) == sent
    ids, masks = data["input_ids"].unbind(), data["loss_mask"].unbind()
    counted = [place for place in range(sent) if data["score_weight"][place] != 0]
    assert sorted(data["score_weight"][counted].tolist()) == [1.0, 2.0, 3.0, 4.0, 5.0]
    for place in range(sent):
        weight = data["score_weight"][place].item()
        assert data["position_ids"].unbind()[place].tolist() == list(range(len(ids[place])))
        if place in counted:
            own = ROWS[int(weight) - 1]
            assert ids[place].tolist() == [*own.prompt.tolist(), *own.response.tolist()]
            assert masks[place].tolist() == [0] * len(own.prompt) + [1] * len(own.response)
        else:
            assert masks[place].sum() == 0  # counts neither in a sum nor in the number of tokens
            assert len(ids[place]) == min(len(own) for own in ROWS)
    returned = rows.restore(data["input_ids"])
    assert [part.tolist() for part in returned] == [[*own.prompt.tolist(), *own.response.tolist()] for own in ROWS]
    assert tu.get(data, "temperature") == 1.0
    assert tu.get(data, "global_token_num") == [len(part) for part in ids]


def test_ranks_get_as_many_rows_and_alike_many_tokens() -> None:
    data = Rows(ROWS, 2, 2).batch()
    lengths = [len(part) for part in data["input_ids"].unbind()]
    loads = sum(lengths[:3]), sum(lengths[3:])
    assert abs(loads[0] - loads[1]) <= 5  # 13 + 5 + 2 and 11 + 5 + 2; side by side it would be 20 and 18 or worse


def test_the_multiple_is_that_of_whole_passes_on_every_rank() -> None:
    assert Cut(4, True, 100, 8).multiple == 4
    assert Cut(4, False, 100, 8).multiple == 32
