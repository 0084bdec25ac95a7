"""Weights are used within the backbone's forward only; names stay; an object is prepared as what is read is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_helpers import random_groups, tiny_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from gspo.config.schema import ModelConfig
from gspo.groups import GroupBatch
from gspo.models import (
    Backbone,
    Compute,
    Policy,
    Scorer,
    load_model,
    load_policy,
    load_tokenizer,
    prepare_model,
    scalar_head,
    verify_packed_forward,
)
from gspo.models.scratch import character_tokenizer
from gspo.rollout.engine import SamplingParams
from gspo.rollout.local import LocalEngine

# 57 characters, and 4 special tokens
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 +-*/=().,;:!?ABCDEFG"
COMPUTES = {"float32": Compute(), "bfloat16": Compute(torch.bfloat16)}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return character_tokenizer(_CHARACTERS)


def batch(with_teacher: bool = False) -> GroupBatch:
    groups = random_groups(1)
    if with_teacher:
        for group in groups:
            group.teacher = group.responses[0]
    return GroupBatch.from_groups(groups, scored=False)


def keep_weights_inside(backbone: Backbone) -> None:
    """Swaps the weights in before a forward and fills them with NaN behind it, as sharding does with what it frees."""
    weights = [(parameter, parameter.detach().clone()) for parameter in backbone.parameters()]

    @torch.no_grad()
    def swap_in(*_: object) -> None:
        for parameter, value in weights:
            parameter.copy_(value)

    @torch.no_grad()
    def poison(*_: object) -> None:
        for parameter, _value in weights:
            parameter.fill_(torch.nan)

    poison()
    backbone.register_forward_pre_hook(swap_in)
    backbone.register_forward_hook(poison)


def a_policy(compute: Compute) -> Policy:
    model = prepared(tiny_model("qwen3", torch.float32, scale=2.0))
    torch.manual_seed(0)
    return Policy(model, scalar_head(model, std=0.5), compute)


def prepared(model: PreTrainedModel) -> PreTrainedModel:
    prepare_model(model)
    return model


def assert_unchanged(found: Callable[[], tuple[Tensor, ...]], backbone: Backbone) -> None:
    with torch.no_grad():
        expected = found()
        keep_weights_inside(backbone)
        for _ in range(2):
            for ours, theirs in zip(found(), expected, strict=True):
                assert torch.isfinite(ours).all()
                assert torch.equal(ours, theirs)
    assert all(parameter.isnan().all() for parameter in backbone.parameters())


@pytest.mark.parametrize("compute", COMPUTES.values(), ids=COMPUTES)
def test_a_policy_uses_its_weights_within_the_forward_only(compute: Compute) -> None:
    policy = a_policy(compute)

    def found() -> tuple[Tensor, ...]:
        log_probs, entropy, values = policy.log_probs_and_values(batch(), 0.7, with_entropy=True)
        assert values is not None
        assert values.any()
        return log_probs, entropy, values, policy.values(batch()), torch.tensor(verify_packed_forward(policy))

    assert_unchanged(found, policy.backbone)


@pytest.mark.parametrize("compute", COMPUTES.values(), ids=COMPUTES)
def test_a_scorer_uses_its_weights_within_the_forward_only(compute: Compute) -> None:
    scorer = Scorer(prepared(tiny_model("llama", torch.float32, scale=2.0)), 0.5, compute)

    def found() -> tuple[Tensor, ...]:
        return scorer.values(batch()), scorer.scores(batch()), *scorer.compare(batch(with_teacher=True))

    assert_unchanged(found, scorer.backbone)


@pytest.mark.parametrize("compute", COMPUTES.values(), ids=COMPUTES)
def test_sampling_uses_its_weights_within_the_forward_only(
    compute: Compute, tokenizer: PreTrainedTokenizerBase
) -> None:
    policy = a_policy(compute)
    engine = LocalEngine(policy, tokenizer, max_num_seqs=8)
    prompts = [group.prompt for group in random_groups(0, num_groups=6)]

    def found() -> tuple[Tensor, ...]:
        groups = engine.generate(prompts, SamplingParams(8), n=3, step=1)
        responses = [response for group in groups for response in group.responses]
        token_ids = [token for response in responses for token in response.token_ids]
        return torch.tensor(token_ids), torch.tensor([p for response in responses for p in response.log_probs])

    assert_unchanged(found, policy.backbone)


def test_nothing_of_sampling_is_held_behind_it(tokenizer: PreTrainedTokenizerBase) -> None:
    policy = a_policy(Compute())
    prompts = [group.prompt for group in random_groups(0)]
    policy.model.train()
    generated = []
    for _ in range(2):
        generated.append(LocalEngine(policy, tokenizer).generate(prompts, SamplingParams(8), n=2, step=1))
        assert policy.model.training
        assert policy.backbone._sampling_head is None
        assert not any(getattr(module, "packed", None) is not None for module in policy.model.modules())
        with torch.no_grad():
            for parameter in policy.model.parameters():
                parameter.mul_(-1)
    assert [r.log_probs for g in generated[0] for r in g.responses] != [
        r.log_probs for g in generated[1] for r in g.responses
    ]


def test_names_and_order_of_parameters_are_those_of_the_modules() -> None:
    model = tiny_model("qwen2", torch.float32)
    names, parameters = list(model.state_dict()), list(model.parameters())
    policy = Policy(model, scalar_head(model))
    assert policy.model is model
    assert list(policy.model.state_dict()) == names
    assert all(mine is theirs for mine, theirs in zip(policy.model.parameters(), parameters, strict=True))
    both = nn.ModuleDict({"model": policy.model, "value_head": policy.value_head})
    assert [name for name, _ in both.named_parameters()] == [
        *(f"model.{name}" for name, _ in model.named_parameters()),
        "value_head.weight",
        "value_head.bias",
    ]
    assert all(mine is theirs for mine, theirs in zip(policy.backbone.parameters(), both.parameters(), strict=True))

    scorer = Scorer(model)
    decoder = [f"decoder.{name}" for name, _ in model.get_decoder().named_parameters()]
    assert [name for name, _ in scorer.model.named_parameters()] == [*decoder, "head.weight", "head.bias"]
    held = zip(scorer.backbone.parameters(), scorer.model.parameters(), strict=True)
    assert all(mine is theirs for mine, theirs in held)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("fused", [True, False])
def test_an_object_gives_the_bits_of_what_is_read(tiny_model_folder: Path, dtype: torch.dtype, fused: bool) -> None:
    config = ModelConfig(path=str(tiny_model_folder), use_fused_kernels=fused)
    tokenizer = load_tokenizer(config.path)
    given = AutoModelForCausalLM.from_pretrained(tiny_model_folder, dtype=dtype, attention_dropout=0.3)
    read = load_policy(config, tokenizer, "cpu", 32)
    taken = load_policy(replace(config, path=None), tokenizer, "cpu", 32, model=given.train())
    assert taken.model is given
    assert taken.backbone.compute == read.backbone.compute
    outcomes = []
    for policy in (read, taken):
        log_probs, entropy = policy.log_probs(batch(), 0.7, with_entropy=True)
        (log_probs.sum() + entropy.sum()).backward()
        samples = LocalEngine(policy, tokenizer).generate(
            [g.prompt for g in batch().groups], SamplingParams(6), n=2, step=1
        )
        drawn = [p for group in samples for response in group.responses for p in response.log_probs]
        outcomes.append([log_probs, entropy, torch.tensor(drawn), *(p.grad for p in policy.model.parameters())])
        assert not policy.model.training
    assert list(read.model.state_dict()) == list(taken.model.state_dict())
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*outcomes, strict=True))


def test_preparing_twice_changes_nothing() -> None:
    model = tiny_model("llama", torch.float32)
    once = prepare_model(model)
    types = [type(module) for module in model.modules()]
    assert any(kind.__name__.startswith("Fused") for kind in types)
    before = Policy(copy.deepcopy(model)).log_probs(batch())[0]
    assert prepare_model(model, dtype="float32") == once
    assert [type(module) for module in model.modules()] == types
    assert torch.equal(Policy(model).log_probs(batch())[0], before)
    prepare_model(model, gradient_checkpointing=True)
    assert model.model.layers[0].training
    assert not model.model.layers[0].mlp.training
    prepare_model(model, gradient_checkpointing=True)
    prepare_model(model)
    assert not model.training
    assert [type(module) for module in model.modules()] == types


def test_an_object_that_cannot_be_used_is_refused(tiny_model_folder: Path) -> None:
    config = ModelConfig(path=str(tiny_model_folder))
    model, tokenizer = load_model(config.path), load_tokenizer(config.path)
    with pytest.raises(ValueError, match=r"actor_rollout_ref\.model\.override_config"):
        load_policy(replace(config, override_config={"rms_norm_eps": 1e-3}), tokenizer, "cpu", 32, model=model)
    with pytest.raises(ValueError, match=r"that was given has \d+ positions"):
        load_policy(config, tokenizer, "cpu", 10**6, model=model)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 1] = torch.nan
    with pytest.raises(ValueError, match=r"the model that was given has NaN or infinite values in .*embed_tokens"):
        load_policy(config, tokenizer, "cpu", 32, model=model)
    with pytest.raises(ValueError, match=r"actor_rollout_ref\.model\.dtype is 'int8'"):
        prepare_model(model, dtype="int8")
