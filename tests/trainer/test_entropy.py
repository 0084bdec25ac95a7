"""`actor/entropy` is one quantity in every mode: that of the policy that sampled, over all tokens that it wrote."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from models_helpers import random_groups, tiny_model
from transformers import PreTrainedModel

from gspo.algorithms.kl import FixedKLController
from gspo.algorithms.stats import merge_stats, to_floats
from gspo.config import load_config
from gspo.groups import Group, GroupBatch, Outcome
from gspo.methods import LOSSES
from gspo.models import Policy, prepare_model
from gspo.models.scratch import character_tokenizer
from gspo.observe import PhaseClock
from gspo.rollout import LocalEngine, SamplingParams
from gspo.trainer.batching import Cut
from gspo.trainer.critics import NoCritic
from gspo.trainer.old_log_probs import Limits, OldLogProbs
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.preparation import NoReference, Preparation
from gspo.trainer.trained import Actor
from gspo.world import Alone

_TEMPERATURE = 0.8
_NUM_GROUPS = 4
_ACTOR = "actor_rollout_ref.actor"
_SEVERAL = (f"{_ACTOR}.ppo_mini_batch_size=1", f"{_ACTOR}.ppo_epochs=2")


def model() -> PreTrainedModel:
    return tiny_model("llama", torch.float32, scale=4.0)


def sampled() -> list[Group]:
    """Groups of the local engine, of which two have no advantage and so are not run by the updates."""
    tokenizer = character_tokenizer("abcdefghijklmnopqrstuvwxyz0123456789 +-*/=().,;:!?ABCDEFG")
    prompts = [group.prompt for group in random_groups(1, _NUM_GROUPS)]
    engine = LocalEngine(Policy(model()), tokenizer, seed=3)
    groups = engine.generate(prompts, SamplingParams(25, temperature=_TEMPERATURE, top_k=20), n=3, step=1)
    draw = random.Random(1)
    for number, group in enumerate(groups):
        for response in group.responses:
            response.outcome = Outcome(draw.random() if number % 2 else 1.0)
    return groups


def entropies(plain: PreTrainedModel, group: Group) -> list[float]:
    """The entropy of every token's distribution, from the model's own forward pass of each sequence."""
    plain, start, found = copy.deepcopy(plain).double(), len(group.prompt.token_ids) - 1, []
    plain.config._attn_implementation = "eager"
    for response in group.responses:
        ids = torch.tensor([[*group.prompt.token_ids, *response.token_ids]])
        logits = plain(input_ids=ids, use_cache=False).logits[0, start : start + len(response)]
        for row in (logits / _TEMPERATURE).softmax(-1).tolist():
            found.append(-sum(p * torch.tensor(p).log().item() for p in row if p > 0))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def figures(policy: Policy, groups: list[Group], bypass: str, lr: str, *overrides: str) -> dict[str, float]:
    """What a step of training says of these groups."""
    settings = [
        f"data.train_batch_size={_NUM_GROUPS}",
        f"{_ACTOR}.policy_loss=gspo",
        f"{_ACTOR}.optim.lr={lr}",
        f"algorithm.rollout_correction.bypass_mode={bypass}",
    ]
    config, world, clock = load_config(overrides=[*settings, *overrides]), Alone(), PhaseClock()
    batch = GroupBatch.from_groups(groups)
    cut, limits = Cut.of_actor(config.actor, seed=1), Limits.of(LOSSES["gspo"], 3e-4, 4e-4)
    bypass_mode = config.algorithm.rollout_correction.bypass_mode
    old = OldLogProbs(policy, _TEMPERATURE, Cut(10_000), cut, bypass_mode, limits, lambda _: None, world)
    preparation = Preparation(
        config.algorithm,
        old_log_probs=old,
        always_old=False,
        updates=cut,
        reference=NoReference(),
        critic=NoCritic(),
        kl_controller=FixedKLController(0.0),
        clock=clock,
        world=world,
    )
    stats = preparation.prepare(batch, 1)
    update = PolicyUpdate(Actor(policy, config.actor.optim, 10), config.actor, _TEMPERATURE, cut, clock, world)
    return to_floats(merge_stats([stats, update.update(batch, 1, "actor/entropy" not in stats)]))


@pytest.mark.parametrize("lr", ["0", "0.05"])
@pytest.mark.parametrize(
    ("bypass", "overrides"),
    [
        ("true", _SEVERAL),
        ("false", _SEVERAL),
        ("null", _SEVERAL),
        ("null", ()),
        ("true", (*_SEVERAL, f"{_ACTOR}.shuffle=true", f"{_ACTOR}.entropy_coeff=0.1")),
    ],
    ids=["samples serve", "a pass", "found out", "one update", "with a bonus"],
)
def test_it_is_of_the_policy_that_sampled(bypass: str, overrides: tuple[str, ...], lr: str) -> None:
    groups, policy, before = sampled(), Policy(model()), model()
    expected = mean([value for group in groups for value in entropies(before, group)])
    assert figures(policy, groups, bypass, lr, *overrides)["actor/entropy"] == pytest.approx(expected, rel=1e-4)
    after = mean([value for group in groups for value in entropies(policy.model, group)])
    assert (abs(after - expected) > 1e-3) is (lr != "0")


@pytest.mark.parametrize("overrides", [_SEVERAL, ()], ids=["exact old ones", "one update"])
def test_in_16_bits_it_differs_by_rounding(overrides: tuple[str, ...]) -> None:
    groups, trained = sampled(), model()
    policy = Policy(trained, None, prepare_model(trained, mixed_precision=True, mixed_precision_dtype="bfloat16"))
    expected = mean([value for group in groups for value in entropies(model(), group)])
    assert figures(policy, groups, "null", "0.05", *overrides)["actor/entropy"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("lr", ["0", "0.05"])
def test_an_engine_that_does_not_measure_it_leaves_it_to_the_passes_before_the_policy_moves(lr: str) -> None:
    groups = sampled()
    expected = mean(entropies(model(), groups[1]))  # the first that has an advantage is the first optimizer batch's
    for response in groups[2].responses:
        response.entropy = None
    found = figures(Policy(model()), groups[1:], "true", lr, *_SEVERAL)
    assert found["actor/entropy"] == pytest.approx(expected, rel=1e-4)


def test_the_engine_measures_it_before_truncation() -> None:
    for group in sampled():
        known, lengths = entropies(model(), group), [len(response) for response in group.responses]
        for response, values in zip(group.responses, torch.tensor(known).split(lengths), strict=True):
            assert response.entropy == pytest.approx(float(values.mean()), rel=1e-4)
