"""The local engine against transformers' generation and against the policy's own log-probabilities."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from models_helpers import FAMILIES, random_groups, tiny_model
from transformers import PreTrainedTokenizerBase

from gspo.groups import Group, GroupBatch, Outcome, Prompt
from gspo.models import Policy
from gspo.models.scratch import character_tokenizer
from gspo.rollout import LocalEngine, SamplingParams

_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 +-*/=().,;:!?ABCDEFG"  # 57, and 4 special tokens


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return character_tokenizer(_CHARACTERS)


def prompts(seed: int = 0, count: int = 5) -> list[Prompt]:
    return [group.prompt for group in random_groups(seed, num_groups=count)]


def tokens(groups: list[Group]) -> list[list[list[int]]]:
    return [[response.token_ids for response in group.responses] for group in groups]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_transformers_token_for_token(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_model(family, torch.float32, scale=12.0)
    plain = copy.deepcopy(model)
    plain.config._attn_implementation = "eager"
    engine = LocalEngine(Policy(model), tokenizer)
    for group in engine.generate(prompts(), SamplingParams(20, temperature=0, ignore_eos=True), n=2, step=1):
        ids = torch.tensor([group.prompt.token_ids])
        expected = plain.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            min_new_tokens=20,
            do_sample=False,
            eos_token_id=None,
        )
        assert group.responses[0].token_ids == expected[0, ids.shape[1] :].tolist()
        assert group.responses[1].token_ids == group.responses[0].token_ids


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probs_are_the_policys_own(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    policy = Policy(tiny_model(family, torch.float32))
    engine = LocalEngine(policy, tokenizer, seed=4)
    groups = engine.generate(prompts(1), SamplingParams(70, temperature=0.8, top_k=20), n=4, step=2)
    lengths = {len(response) for group in groups for response in group.responses}
    assert len(lengths) >= 3  # responses ended at different times, so rows left the cache
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(0.0)
    batch = GroupBatch.from_groups(groups)
    log_probs, _ = policy.log_probs(batch, temperature=0.8)
    torch.testing.assert_close(batch["rollout_log_probs"], log_probs.detach(), atol=2e-4, rtol=1e-4)


def test_a_response_does_not_depend_on_its_batch(tokenizer: PreTrainedTokenizerBase) -> None:
    policy = Policy(tiny_model("llama", torch.float64))
    sampling = SamplingParams(30)
    together = tokens(LocalEngine(policy, tokenizer, seed=1).generate(prompts(), sampling, n=4, step=3))
    small_waves = tokens(
        LocalEngine(policy, tokenizer, seed=1, max_num_seqs=4).generate(prompts(), sampling, n=4, step=3)
    )
    alone = [tokens(LocalEngine(policy, tokenizer, seed=1).generate([p], sampling, n=4, step=3))[0] for p in prompts()]
    fewer = tokens(LocalEngine(policy, tokenizer, seed=1).generate(prompts(), sampling, n=2, step=3))
    assert together == small_waves == alone
    assert fewer == [group[:2] for group in together]


def test_draws_differ_between_seeds_steps_and_responses(tokenizer: PreTrainedTokenizerBase) -> None:
    policy = Policy(tiny_model("llama", torch.float32, scale=2.0))
    sampling = SamplingParams(12, ignore_eos=True)
    runs = [
        LocalEngine(policy, tokenizer, seed=seed).generate(prompts(count=2), sampling, n=3, step=step)
        for seed, step in [(0, 1), (0, 2), (1, 1)]
    ]
    responses = [tuple(r.token_ids) for groups in runs for group in groups for r in group.responses]
    assert len(set(responses)) == len(responses)


def test_samples_follow_the_models_distribution(tokenizer: PreTrainedTokenizerBase) -> None:
    policy = Policy(tiny_model("llama", torch.float64))
    prompt = Prompt("f:0", (5, 9, 7), "", "")
    count = 4000
    (group,) = LocalEngine(policy, tokenizer, max_num_seqs=count).generate([prompt], SamplingParams(2), n=count, step=1)
    model = copy.deepcopy(policy.model)
    model.config._attn_implementation = "eager"
    first = model(torch.tensor([prompt.token_ids])).logits[0, -1].detach().softmax(-1)
    seen = Counter(response.token_ids[0] for response in group.responses)
    likely = int(first.argmax())
    second = model(torch.tensor([[*prompt.token_ids, likely]])).logits[0, -1].detach().softmax(-1)
    after = Counter(r.token_ids[1] for r in group.responses if r.token_ids[0] == likely and len(r) > 1)
    for probs, counts in ((first, seen), (second, after)):
        total = sum(counts.values())
        for token in range(len(probs)):
            p = float(probs[token])
            assert abs(counts[token] / total - p) <= 4.5 * (p * (1 - p) / total) ** 0.5 + 1e-3


def test_end_token_finishes_and_is_kept(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_model("llama", torch.float32, scale=1.0)
    engine = LocalEngine(Policy(model), tokenizer, seed=2)
    groups = engine.generate(prompts(count=4), SamplingParams(60), n=8, step=1)
    responses = [response for group in groups for response in group.responses]
    stopped = [r for r in responses if r.finish_reason == "stop"]
    assert 0 < len(stopped) < len(responses)
    assert all(r.token_ids[-1] == tokenizer.eos_token_id and "<eos>" not in r.text for r in stopped)
    assert all(tokenizer.eos_token_id not in r.token_ids[:-1] for r in responses)
    assert all(len(r) == 60 and r.finish_reason == "length" for r in responses if r not in stopped)


def test_stop_text_cuts_the_text_and_keeps_the_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    engine = LocalEngine(Policy(tiny_model("llama", torch.float32, scale=1.0)), tokenizer, seed=2)
    free = engine.generate(prompts(count=3), SamplingParams(40), n=8, step=1)
    stopped = engine.generate(prompts(count=3), SamplingParams(40, stop=("a", "xy")), n=8, step=1)
    cuts = 0
    for before, after in zip(
        (r for g in free for r in g.responses), (r for g in stopped for r in g.responses), strict=True
    ):
        text = tokenizer.decode(before.token_ids, skip_special_tokens=True)
        at = min((text.index(stop) for stop in ("a", "xy") if stop in text), default=None)
        if at is None:
            assert after.token_ids == before.token_ids
        else:
            cuts += 1
            assert after.text == text[:at]
            assert after.finish_reason == "stop"
            assert after.token_ids == before.token_ids[: len(after)]
            assert tokenizer.decode(after.token_ids, skip_special_tokens=True).endswith(("a", "xy"))
    assert cuts > 3


def test_the_engine_refuses_another_policys_weights(tokenizer: PreTrainedTokenizerBase) -> None:
    model = tiny_model("llama", torch.float32)
    engine = LocalEngine(Policy(model), tokenizer)
    with pytest.raises(ValueError, match="make a new engine"):
        engine.load_weights(Policy(model), 1)
