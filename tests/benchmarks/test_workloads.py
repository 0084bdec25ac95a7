"""Workloads of the benchmarks: the sizes that are promised, the end token's chance, prompts read as they were meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch


def end_chance(workload: Any, tokens: int = 400) -> torch.Tensor:
    from workloads import END, SPECIAL, make_model

    ids = torch.randint(len(SPECIAL), workload.vocab_size, (4, tokens), generator=torch.Generator().manual_seed(9))
    with torch.inference_mode():
        return make_model(workload)(input_ids=ids).logits.softmax(-1)[..., END]


def test_the_end_token_has_the_chance_asked_for(tiny: Any) -> None:
    chance = end_chance(tiny)
    assert float(chance.mean()) == pytest.approx(0.25, rel=0.02)
    assert float(chance.std()) < 0.02  # the same at every token


@pytest.mark.parametrize("tied", [False, True])
def test_without_a_rate_the_end_token_never_comes(tiny: Any, tied: bool) -> None:
    assert float(end_chance(replace(tiny, end_rate=None, tied=tied)).max()) < 1e-4


def test_a_tied_head_has_no_rate(tiny: Any) -> None:
    from workloads import make_model

    with pytest.raises(ValueError, match="tiny: with a tied output head the end token cannot be given a rate"):
        make_model(replace(tiny, tied=True))


@pytest.mark.parametrize(("name", "millions"), [("W1", 5.0), ("W2", 17.3), ("W3", 134.5)])
def test_sizes(name: str, millions: float) -> None:
    from flops import Shape
    from workloads import WORKLOADS

    workload = WORKLOADS[name]
    matrices = Shape.of(workload).layer_weights
    embeddings = workload.vocab_size * workload.hidden_size * (1 if workload.tied else 2)
    assert (matrices + embeddings) / 1e6 == pytest.approx(millions, abs=0.05)


def test_gad_is_w2_with_a_teacher() -> None:
    from workloads import WORKLOADS, make_rows

    plain, taught = make_rows(WORKLOADS["W2"]), make_rows(WORKLOADS["W4"])
    assert [row["prompt"] for row in plain] == [row["prompt"] for row in taught]
    lengths = {len(row["teacher_response"].split()) for row in taught}
    assert len(lengths) > 8
    assert max(lengths) < 256
    assert replace(WORKLOADS["W4"], name="W2", discriminator=False) == WORKLOADS["W2"]


def test_a_folder_is_written_once_and_read_as_the_same_tokens(tiny: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer
    from workloads import prepare, read_prompts, read_token_ids

    folder = prepare(tiny, tmp_path)
    written = (folder / "model" / "model.safetensors").stat().st_mtime_ns
    assert prepare(tiny, tmp_path) == folder
    assert (folder / "model" / "model.safetensors").stat().st_mtime_ns == written
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    read = tokenizer([row["prompt"] for row in read_prompts(folder)])["input_ids"]
    assert read == read_token_ids(folder)
    assert all(3 <= len(ids) <= 6 for ids in read)
    prepare(replace(tiny, num_prompts=4), tmp_path)
    assert len(read_prompts(folder)) == 4


def test_rewards_spread() -> None:
    from workloads import token_reward

    assert token_reward([100, 2]) == 0.01
    assert token_reward([50]) == 0.5
