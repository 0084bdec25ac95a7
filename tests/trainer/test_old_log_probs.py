"""Old log-probabilities in 16 bits: a policy that has not moved has a ratio of exactly 1, however a batch is cut."""

from __future__ import annotations

import copy
import math
import random
from typing import Any

import pytest
import torch
from models_helpers import random_groups, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from gspo.algorithms.stats import to_floats
from gspo.config import load_config
from gspo.groups import GroupBatch, Outcome
from gspo.methods import LOSSES
from gspo.models import Policy, prepare_model
from gspo.observe import PhaseClock
from gspo.trainer.advantages import add_advantages
from gspo.trainer.batching import Cut
from gspo.trainer.old_log_probs import Limits, OldLogProbs, add_log_probs, add_log_probs_of_updates
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.ratio_noise import RatioNoise
from gspo.trainer.trained import Actor
from gspo.world import Alone

_NUM_GROUPS = 6
_ACTOR = "actor_rollout_ref.actor"
# Responses of a group are then cut differently in each order of the groups.
_THREE_A_PASS = (f"{_ACTOR}.use_dynamic_bsz=false", f"{_ACTOR}.ppo_micro_batch_size_per_gpu=3")


class Rounding(Policy):
    """Rounds as kernels in 16 bits do, by much: a token's figures depend on all tokens of its pass and their order."""

    def log_probs_and_values(self, batch: GroupBatch, *arguments: Any, **further: Any) -> Any:
        log_probs, *others = super().log_probs_and_values(batch, *arguments, **further)
        tokens = [token for group in batch.groups for response in group.responses for token in response.token_ids]
        noise = 1e-2 * math.sin(sum(place * token for place, token in enumerate(tokens, 1)))
        return (log_probs + noise * batch["response_mask"], *others)


@pytest.fixture(params=["bfloat16", "float16", "rounding"])
def policy(request: pytest.FixtureRequest) -> Policy:
    return narrow(request.param)


def narrow(dtype: str) -> Policy:
    torch.manual_seed(0)
    sizes = {"vocab_size": 61, "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 3}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # peaked distributions, as a trained model's are: there rounding shows
    kind, name = (Rounding, "bfloat16") if dtype == "rounding" else (Policy, dtype)
    return kind(model, None, prepare_model(model, mixed_precision=True, mixed_precision_dtype=name))


def make_batch() -> GroupBatch:
    """Groups with advantages; two groups teach nothing."""
    groups, draw = random_groups(3, _NUM_GROUPS, max_length=60), random.Random(3)
    for number, group in enumerate(groups):
        for response in group.responses:
            response.outcome = Outcome(1.0 if number < 2 else draw.random())
    batch = GroupBatch.from_groups(groups)
    batch["token_level_rewards"] = batch["token_level_scores"]
    add_advantages(batch, load_config().algorithm, Alone())
    return batch


def updated(policy: Policy, *overrides: str, cut_of_old: Cut | None = None) -> dict[str, float]:
    """The figures of a step's updates at learning rate 0."""
    settings = [
        f"data.train_batch_size={_NUM_GROUPS}",
        f"{_ACTOR}.policy_loss=gspo",
        f"{_ACTOR}.ppo_mini_batch_size=3",
        f"{_ACTOR}.ppo_max_token_len_per_gpu=150",
        f"{_ACTOR}.optim.lr=0",
        *overrides,
    ]
    config, batch, world = load_config(overrides=settings), make_batch(), Alone()
    cut = Cut.of_actor(config.actor, seed=1)
    if cut_of_old is None:
        limits = Limits.of(LOSSES["gspo"], 3e-4, 4e-4)
        OldLogProbs(policy, 1.0, Cut(10_000), cut, None, limits, lambda _: None, world).add(batch, step=5)
    else:
        add_log_probs(batch, policy, 1.0, cut_of_old, world)
    actor = Actor(policy, config.actor.optim, 10)
    return to_floats(PolicyUpdate(actor, config.actor, 1.0, cut, PhaseClock(), world).update(batch, 5))


@pytest.mark.parametrize("skip", ["true", "false"])
@pytest.mark.parametrize(
    "overrides",
    [
        (),
        (f"{_ACTOR}.shuffle=true",),
        (f"{_ACTOR}.shuffle=true", f"{_ACTOR}.ppo_epochs=3", *_THREE_A_PASS),
        (f"{_ACTOR}.ppo_epochs=2", *_THREE_A_PASS),
    ],
)
def test_nothing_is_clipped_before_the_policy_moves(policy: Policy, overrides: tuple[str, ...], skip: str) -> None:
    figures = updated(policy, *overrides, f"{_ACTOR}.skip_zero_advantages={skip}")
    assert figures["actor/seq_ratio/min"] == figures["actor/seq_ratio/max"] == 1.0
    assert figures["actor/seq_clipfrac"] == figures["actor/token_clipfrac"] == figures["actor/ppo_kl"] == 0.0
    assert figures["actor/grad_norm"] > 0


def test_another_cut_is_clipped() -> None:
    """What the tests above are about: without the updates' own passes rounding is clipped."""
    figures = updated(narrow("rounding"), cut_of_old=Cut(10_000))
    assert figures["actor/seq_ratio/max"] - figures["actor/seq_ratio/min"] > 7e-4
    assert figures["actor/seq_clipfrac"] > 0


def test_one_order_needs_one_pass_and_orders_of_their_own_one_each(policy: Policy) -> None:
    batch = make_batch()
    cut = Cut(150, size=3, epochs=2)
    stats = add_log_probs_of_updates(batch, policy, 1.0, cut, Alone(), step=5)
    assert sorted(name for name in batch.tensors if name.startswith("old")) == ["old_log_probs"]
    assert to_floats(stats)["actor/entropy"] > 0
    shuffled = Cut(150, 3, size=3, epochs=2, shuffle=True)
    add_log_probs_of_updates(batch, policy, 1.0, shuffled, Alone(), step=5)
    first, second = batch["old_log_probs"], batch["old_log_probs_1"]
    torch.testing.assert_close(first, second, atol=0.1, rtol=0)
    assert torch.equal(first, second) is not isinstance(policy, Rounding)


def test_in_float32_any_cut_gives_the_same() -> None:
    policy, batch, other = Policy(tiny_model("llama", torch.float32)), make_batch(), make_batch()
    assert not policy.is_narrow
    add_log_probs(batch, policy, 1.0, Cut(10_000), Alone())
    add_log_probs_of_updates(other, policy, 1.0, Cut(60, size=3), Alone(), step=5)
    torch.testing.assert_close(batch["old_log_probs"], other["old_log_probs"], atol=1e-5, rtol=0)


def test_the_noise_is_measured_once_and_said_where_it_reaches_the_clip() -> None:
    said: list[str] = []

    def noise(policy: Policy, clip: tuple[float, float], step: int = 1) -> dict[str, Any]:
        measured = RatioNoise(policy, 1.0, Cut(10_000), LOSSES["gspo"], clip, 1, said.append, Alone())
        return to_floats(measured.at(make_batch(), step))

    float32 = Policy(tiny_model("llama", torch.float32))
    (exact, half, brain) = (
        noise(policy, (0.0, 0.0))["actor/ratio_noise"] for policy in (float32, narrow("float16"), narrow("bfloat16"))
    )
    assert exact < 1e-5 < min(half, brain)
    assert not said
    assert noise(narrow("bfloat16"), (3e-4, 4e-4), step=2) == {}
    assert noise(narrow("bfloat16"), (brain * 1.01, 1.0))
    assert not said
    assert noise(narrow("bfloat16"), (brain * 0.99, 1.0))
    assert len(said) == 1
    assert "mixed_precision_dtype=float16" in said[0]


@pytest.fixture
def compared() -> tuple[OldLogProbs, GroupBatch]:
    policy, batch = Policy(tiny_model("llama", torch.float32)), make_batch()
    add_log_probs(batch, policy, 1.0, Cut(10_000), Alone())
    batch["rollout_log_probs"] = batch["old_log_probs"].clone()
    limits = Limits.of(LOSSES["gspo"], 3e-4, 4e-4)
    return OldLogProbs(policy, 1.0, Cut(10_000), Cut(60), None, limits, lambda _: None, Alone()), batch


@pytest.mark.parametrize(("bias", "serve"), [(0.0, True), (1e-5, True), (1e-4, False)])
def test_samples_serve_where_they_are_far_closer_than_the_clip(
    compared: tuple[OldLogProbs, GroupBatch], bias: float, serve: bool
) -> None:
    old, batch = compared
    batch["rollout_log_probs"] += bias * batch["response_mask"]  # of every token, so of a response's mean as well
    old.add(batch, 1)
    assert old.state(1) == {"samples_serve": serve}


def test_what_the_first_batch_showed_is_kept_with_the_run(compared: tuple[OldLogProbs, GroupBatch]) -> None:
    old, batch = compared
    twin = copy.copy(old)
    old.add(batch, 1)

    class Saved:
        state = old.state(1)

    twin.load(Saved())  # type: ignore[arg-type]
    twin._policy = None  # type: ignore[assignment]  # no pass is made
    twin.add(batch, 2)
    assert torch.equal(batch["old_log_probs"], batch["rollout_log_probs"])
