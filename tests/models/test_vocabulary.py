"""A model with more rows than its tokenizer has tokens: nothing samples the rest, and nothing counts it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from models_helpers import random_groups, tiny_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

import gspo
from gspo.config import load_config
from gspo.config.schema import ModelConfig
from gspo.groups import Group, GroupBatch, Outcome, Response
from gspo.models import Policy, load_policy, prepare_model, verify_packed_forward
from gspo.models.scratch import character_tokenizer
from gspo.rollout import LocalEngine, SamplingParams
from gspo.rollout.local.checking import verify_sampling
from gspo.trainer.collector import require_known

_KNOWN = 40
_TOKENIZER = character_tokenizer("abcdefghijklmnopqrstuvwxyz0123456789")


def with_loud_tail(family: str) -> PreTrainedModel:
    """A model that gives most of its probability to tokens from `_KNOWN` on."""
    model = tiny_model(family, torch.float32, scale=4.0)
    with torch.no_grad():
        head = model.get_output_embeddings().weight.detach().clone()
        head[_KNOWN:] *= 6
        model.lm_head.weight = nn.Parameter(head)  # tied to the embedding no longer
    return model


def policy_of(model: PreTrainedModel, vocabulary: int | None = _KNOWN, *, narrow: bool = False) -> Policy:
    policy = Policy(model, None, prepare_model(model, mixed_precision=narrow))
    policy.backbone.vocabulary = vocabulary
    return policy


def sampled(policy: Policy) -> list[Group]:
    prompts = [group.prompt for group in random_groups(2, 4, vocabulary=_KNOWN)]
    sampling = SamplingParams(12, temperature=0.8, top_p=0.95, ignore_eos=True)
    return LocalEngine(policy, _TOKENIZER, seed=1).generate(prompts, sampling, n=3, step=1)


def log_probs_by_hand(model: PreTrainedModel, groups: list[Group]) -> Tensor:
    model.config._attn_implementation = "eager"
    found = []
    for group in groups:
        for response in group.responses:
            ids = torch.tensor([[*group.prompt.token_ids, *response.token_ids]])
            logits = model(input_ids=ids, use_cache=False).logits[0, -len(response) - 1 : -1, :_KNOWN]
            log_p = (logits / 0.8).log_softmax(-1)
            found.append(log_p.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0])
    return torch.stack(found)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_rest_is_neither_sampled_nor_counted_and_sampler_and_trainer_agree(family: str) -> None:
    unlimited = sampled(policy_of(with_loud_tail(family), None))
    assert max(token for group in unlimited for r in group.responses for token in r.token_ids) >= _KNOWN
    policy = policy_of(with_loud_tail(family))
    assert policy.vocabulary_size == _KNOWN
    assert verify_packed_forward(policy, 60, gradients=True) < 1e-3
    assert verify_sampling(policy, 60) < 1e-3
    groups = sampled(policy)
    assert max(token for group in groups for r in group.responses for token in r.token_ids) < _KNOWN
    batch = GroupBatch.from_groups(groups, scored=False)
    log_probs, entropy = policy.log_probs(batch, 0.8, with_entropy=True)
    torch.testing.assert_close(batch["rollout_log_probs"], log_probs.detach(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(log_probs, log_probs_by_hand(with_loud_tail(family), groups), atol=1e-4, rtol=1e-4)
    assert float(entropy.detach().mean()) == pytest.approx(
        sum(r.entropy or 0 for g in groups for r in g.responses) / 12, rel=1e-4
    )
    (log_probs.square().mean() + entropy.mean()).backward()
    gradient = policy.model.get_output_embeddings().weight.grad
    assert gradient is not None
    assert not gradient[_KNOWN:].any()
    assert bool(gradient[:_KNOWN].any(-1).all())


def test_in_16_bits_the_same() -> None:
    policy = policy_of(with_loud_tail("llama"), narrow=True)
    groups = sampled(policy)
    batch = GroupBatch.from_groups(groups, scored=False)
    assert max(token for group in groups for r in group.responses for token in r.token_ids) < _KNOWN
    torch.testing.assert_close(batch["rollout_log_probs"], policy.log_probs(batch, 0.8)[0].detach(), atol=0.2, rtol=0.1)


@pytest.fixture
def padded_folder(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The tiny model with 24 more rows, which it likes best."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    model.resize_token_embeddings(len(tokenizer) + 24, mean_resizing=False)
    with torch.no_grad():
        model.get_output_embeddings().weight[len(tokenizer) :] *= 30
    folder = tmp_path / "padded"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_the_limit_is_the_tokenizers_and_there_is_none_without_a_rest(
    padded_folder: Path, tiny_model_folder: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_folder)
    for folder, limit in ((padded_folder, len(tokenizer)), (tiny_model_folder, None)):
        assert load_policy(ModelConfig(path=str(folder)), tokenizer, "cpu", 20).backbone.vocabulary == limit


def test_a_run_samples_trains_and_measures_without_the_rest(
    padded_folder: Path, run_overrides: Callable[..., list[str]], tiny_data: Path, tmp_path: Path
) -> None:
    overrides = run_overrides(
        f"actor_rollout_ref.model.path={padded_folder}",
        f"data.val_files={tiny_data / 'test.jsonl'}",
        "actor_rollout_ref.actor.use_kl_loss=true",
        "actor_rollout_ref.actor.optim.lr=0",
    )
    seen: list[int] = []

    def keep(_: int, __: object, groups: list[Group]) -> None:
        seen.extend(token for group in groups for response in group.responses for token in response.token_ids)

    gspo.train(config=load_config(overrides=overrides), callbacks=[keep])
    assert max(seen) < len(AutoTokenizer.from_pretrained(padded_folder))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "actor/kl_loss" in line]
    assert len(steps) == 2
    for step in steps:
        assert abs(step["actor/kl_loss"]) < 1e-8
        assert step["training/rollout_probs_diff_max"] < 1e-4


def test_an_engine_that_samples_the_rest_is_named() -> None:
    group = random_groups(0, 1, vocabulary=_KNOWN)[0]
    require_known([group], _KNOWN)
    group.responses.append(Response([1, _KNOWN], [0.0, 0.0], "", "length", outcome=Outcome(0.0)))
    with pytest.raises(ValueError, match=rf"^engine: response \d+ to f:0 holds the token {_KNOWN}"):
        require_known([group], _KNOWN)
