"""Groups that enter a running batch: the same responses whatever the batch's size, in fewer calls of the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from models_helpers import FAMILIES, random_groups, tiny_model
from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, GroupBatch, Outcome, Prompt
from gspo.models import Backbone, Inputs, Policy, Read, Reading
from gspo.models.scratch import character_tokenizer
from gspo.rollout import LocalEngine, SamplingParams
from gspo.rollout.local import block, joining
from gspo.rollout.local.cache import DecodeCache
from gspo.rollout.local.prefill import Prefill

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 +-*/=().,;:!?ABCDEFG"  # 57, and 4 special tokens


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return character_tokenizer(_CHARACTERS)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, set[int]]]:
    """(kind, batch rows, distinct numbers of own tokens) of every call of the model."""
    found: list[tuple[str, int, set[int]]] = []
    real = Backbone.forward

    def counted(backbone: Backbone, inputs: Inputs, read: Read) -> Reading:
        context = inputs.context
        if isinstance(context, Prefill):
            found.append(("prefill", len(context.spans), {0}))
        elif isinstance(context, DecodeCache):
            places = {int(n) for b in context._blocks for n in b.position - b.starts}
            found.append(("decode", len(inputs.input_ids), places))
        return real(backbone, inputs, read)

    monkeypatch.setattr(Backbone, "forward", counted)
    return found


def prompts(seed: int = 0, count: int = 6) -> list[Prompt]:
    return [group.prompt for group in random_groups(seed, num_groups=count)]


def uniform_policy() -> Policy:
    """Every token is about equally likely, so a response ends at each with about 1 in 61."""
    return Policy(tiny_model("llama", torch.float64, scale=0.01))


def assert_same(found: list[Group], expected: list[Group]) -> None:
    assert [group.prompt for group in found] == [group.prompt for group in expected]
    for group, other in zip(found, expected, strict=True):
        assert len(group.responses) == len(other.responses)
        for response, same in zip(group.responses, other.responses, strict=True):
            assert response.token_ids == same.token_ids
            assert (response.text, response.finish_reason) == (same.text, same.finish_reason)
            assert len(response.log_probs) == len(response.token_ids)
            assert response.log_probs == pytest.approx(same.log_probs, abs=1e-6)  # kept in float32


@pytest.mark.parametrize("apart", [False, True], ids=["one block", "blocks of their own"])
@pytest.mark.parametrize("family", FAMILIES)
def test_responses_are_the_same_whatever_the_batch(
    family: str, apart: bool, tokenizer: PreTrainedTokenizerBase, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if apart:
        monkeypatch.setattr(joining, "_BLOCK_COST", -1)
    policy = Policy(tiny_model(family, torch.float64, scale=2.0))
    n, sampling = 4, SamplingParams(24, temperature=1.5, stop=("e", "9"))
    everything = LocalEngine(policy, tokenizer, seed=5).generate(prompts(), sampling, n=n, step=2)
    assert calls[0][:2] == ("prefill", 6)
    for groups_at_once in (1, 2):
        calls.clear()
        engine = LocalEngine(policy, tokenizer, seed=5, max_num_seqs=groups_at_once * n)
        assert_same(engine.generate(prompts(), sampling, n=n, step=2), everything)
        assert max(rows for kind, rows, _ in calls if kind == "decode") <= groups_at_once * n
    assert max(len(places) for _, _, places in calls) > 1  # rows stood at different positions


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_of_rows_at_different_positions_are_the_policys_own(
    family: str, tokenizer: PreTrainedTokenizerBase, calls: list[Any]
) -> None:
    policy = Policy(tiny_model(family, torch.float64, scale=2.0))
    engine = LocalEngine(policy, tokenizer, seed=3, max_num_seqs=8)
    # Gemma 2's window of 6 tokens is left behind by every long response, and cuts the longer prompts.
    groups = engine.generate(prompts(1), SamplingParams(60, temperature=1.5), n=2, step=1)
    assert max(len(places) for _, _, places in calls) > 1
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(0.0)
    batch = GroupBatch.from_groups(groups)
    log_probs, _ = policy.log_probs(batch, temperature=1.5)
    torch.testing.assert_close(batch["rollout_log_probs"].double(), log_probs.detach().double(), atol=2e-6, rtol=1e-6)


def test_a_row_is_cut_after_max_tokens_of_its_own(
    tokenizer: PreTrainedTokenizerBase, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "_SHORT_BYTES", -1)  # prompts apart: a column is a token of its row's own
    engine = LocalEngine(uniform_policy(), tokenizer, seed=1, max_num_seqs=8)
    groups = engine.generate(prompts(count=12), SamplingParams(40), n=2, step=1)
    responses = [response for group in groups for response in group.responses]
    cut = [response for response in responses if response.finish_reason == "length"]
    assert 0 < len(cut) < len(responses)
    assert {len(response) for response in cut} == {40}
    assert all(r.token_ids[-1] == tokenizer.eos_token_id for r in responses if r.finish_reason == "stop")
    assert max(len(places) for _, _, places in calls) > 1
    assert max(max(places) for _, _, places in calls) == 38  # the 40th token is never run


def test_one_token_each_needs_no_decoding(tokenizer: PreTrainedTokenizerBase, calls: list[Any]) -> None:
    engine = LocalEngine(uniform_policy(), tokenizer, max_num_seqs=4)
    groups = engine.generate(prompts(count=5), SamplingParams(1), n=2, step=1)
    assert [[len(response) for response in group.responses] for group in groups] == [[1, 1]] * 5
    assert [call[:2] for call in calls] == [("prefill", 2), ("prefill", 2), ("prefill", 1)]


def test_no_prompts_give_no_groups(tokenizer: PreTrainedTokenizerBase) -> None:
    assert LocalEngine(uniform_policy(), tokenizer).generate([], SamplingParams(4), n=2, step=1) == []


def test_what_fits_at_once_is_prefilled_once(tokenizer: PreTrainedTokenizerBase, calls: list[Any]) -> None:
    groups = LocalEngine(uniform_policy(), tokenizer).generate(prompts(), SamplingParams(30), n=4, step=1)
    longest = max(len(response) for group in groups for response in group.responses)
    assert [kind for kind, _, _ in calls] == ["prefill"] + ["decode"] * (longest - 1)


def test_a_long_tail_takes_fewer_calls_than_waves(tokenizer: PreTrainedTokenizerBase, calls: list[Any]) -> None:
    n, capacity = 4, 16
    engine = LocalEngine(uniform_policy(), tokenizer, seed=1, max_num_seqs=capacity)
    groups = engine.generate(prompts(count=24), SamplingParams(200), n=n, step=1)
    lengths = [max(len(response) for response in group.responses) for group in groups]
    wave = capacity // n
    calls_of_waves = sum(max(lengths[start : start + wave]) for start in range(0, len(lengths), wave))
    num_tokens = sum(len(response) - 1 for group in groups for response in group.responses)
    decodes = sum(kind == "decode" for kind, _, _ in calls)
    assert num_tokens / capacity <= decodes
    assert len(calls) < 0.7 * calls_of_waves
    assert sum(count for kind, count, _ in calls if kind == "prefill") == 24  # each prompt once


def test_responses_are_told_of_as_they_end(tokenizer: PreTrainedTokenizerBase) -> None:
    told = list[int]()
    sampling = SamplingParams(40)
    engine = LocalEngine(uniform_policy(), tokenizer, seed=1, max_num_seqs=8)
    groups = engine.generate(prompts(count=12), sampling, n=2, step=1, on_ended=told.append)
    assert sum(told) == 24
    assert min(told) > 0
    # Whatever the batch's size, what has ended at a token is told at that token.
    told.clear()
    whole = LocalEngine(uniform_policy(), tokenizer, seed=1)
    whole.generate(prompts(count=12), sampling, n=2, step=1, on_ended=told.append)
    lengths = [len(response) for group in groups for response in group.responses]
    assert told == [lengths.count(length) for length in sorted(set(lengths))]
