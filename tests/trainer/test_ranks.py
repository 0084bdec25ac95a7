"""Two ranks that share a step's groups update as one process does, and make equally many passes and decisions."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models_helpers import random_groups, tiny_model
from ranks import RankOf, on_ranks
from torch import Tensor, nn
from transformers import PreTrainedModel

from gspo.algorithms.kl import AdaptiveKLController
from gspo.algorithms.stats import Mean, to_floats
from gspo.config import Config, load_config
from gspo.data import PromptSampler
from gspo.groups import Group, GroupBatch, Outcome, Response
from gspo.models import Ends, Policy, Scorer
from gspo.observe import PhaseClock
from gspo.trainer.advantages import add_advantages, add_rewards, with_rewards
from gspo.trainer.batching import Cut, mini_batches, passes
from gspo.trainer.collector import Collector, FilteringCollector
from gspo.trainer.critics import NoCritic
from gspo.trainer.gad.discriminator import Discriminator
from gspo.trainer.gad.schedule import Stages
from gspo.trainer.old_log_probs import Limits, OldLogProbs
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.supervised import Imitation
from gspo.trainer.trained import Actor, Trained, TrainedScorer
from gspo.trainer.value_critic import ValueCritic
from gspo.world import Alone, World

_NUM_GROUPS = 5
_TOLERANCE = 1e-6  # norms and rotary angles are float32 whatever the model's type
_ACTOR = "actor_rollout_ref.actor"


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return tiny_model("llama")


def configured(*overrides: str) -> Config:
    base = (f"data.train_batch_size={_NUM_GROUPS}", f"{_ACTOR}.policy_loss=gspo", f"{_ACTOR}.clip_ratio=0.01")
    return load_config(overrides=[*base, *overrides])


def make_groups(seed: int = 0) -> list[Group]:
    """Groups with rewards, teachers and their places."""
    groups, draw = random_groups(seed, _NUM_GROUPS), random.Random(seed)
    for place, group in enumerate(groups):
        group.place = place
        group.teacher = Response([5, 7, 11][: 1 + place % 3], [0.0] * (1 + place % 3), "", "stop")
        for number, response in enumerate(group.responses):
            response.outcome = Outcome(draw.choice([0.0, 0.5, 1.0]) if place != 2 else 1.0, extras={"acc": number % 2})
    return groups


def make_batch(model: PreTrainedModel) -> GroupBatch:
    """A prepared batch: advantages, and old and reference log-probabilities a little off the policy's own."""
    batch = GroupBatch.from_groups(make_groups())
    noise = torch.Generator().manual_seed(0)
    log_probs, _ = Policy(copy.deepcopy(model)).log_probs(batch)
    for name in ("old_log_probs", "ref_log_prob", "values"):
        moved = log_probs.detach() + 0.15 * torch.randn(log_probs.shape, generator=noise, dtype=log_probs.dtype)
        batch[name] = moved * batch["response_mask"]
    batch["token_level_rewards"] = batch["token_level_scores"]
    add_advantages(batch, configured().algorithm, Alone())
    return batch


def part_of(batch: GroupBatch, world: World, owners: Sequence[int]) -> GroupBatch:
    """The groups of a rank, where `owners` names the rank of each; all of them in one process."""
    own = [number for number, rank in enumerate(owners) if rank == world.rank or world.size == 1]
    return batch.select(own)


class Captured:
    """Keeps the gradients that the ranks' average gives in each optimizer step, in place of the step."""

    def __init__(self, trained: Trained, world: World) -> None:
        self.gradients: list[dict[str, Tensor]] = []
        self._module, self._world = trained.module, world
        trained.step = self._step  # type: ignore[method-assign]
        trained.advance = lambda: None  # type: ignore[method-assign]

    def _step(self) -> dict[str, Any]:
        gradients = {}
        for name, parameter in self._module.named_parameters():
            own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients[name] = self._world.sum(own) / self._world.size
            parameter.grad = None
        self.gradients.append(gradients)
        return {}


Work = Callable[[World], tuple[list[dict[str, Tensor]], dict[str, float], int]]


def assert_as_one_process(work: Work) -> None:
    """The same gradients in each optimizer step, the same figures, and equally many passes on both ranks."""
    gradients, figures, _ = work(Alone())
    results, _ = on_ranks(work)
    for theirs, their_figures, _ in results:
        assert len(theirs) == len(gradients) > 0
        for ours, other in zip(gradients, theirs, strict=True):
            for name in ours:
                torch.testing.assert_close(other[name], ours[name], rtol=_TOLERANCE, atol=_TOLERANCE)
        assert their_figures == pytest.approx(figures, rel=1e-5, abs=1e-6)
    assert len({count for _, _, count in results}) == 1


def counting(model: nn.Module) -> list[int]:
    """Grows by one with each forward pass of the decoder."""
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    return calls


OWNERS = {"in turn": (0, 1, 0, 1, 0), "one has none": (1, 1, 1, 1, 1), "uneven": (0, 0, 1, 0, 0)}


@pytest.mark.parametrize("owners", OWNERS.values(), ids=list(OWNERS))
@pytest.mark.parametrize(
    "further",
    [
        (),
        (f"{_ACTOR}.ppo_mini_batch_size=2", f"{_ACTOR}.shuffle=true", f"{_ACTOR}.ppo_epochs=2"),
        (f"{_ACTOR}.policy_loss=vanilla", f"{_ACTOR}.ppo_max_token_len_per_gpu=20", f"{_ACTOR}.ppo_mini_batch_size=3"),
        (f"{_ACTOR}.entropy_coeff=0.3", f"{_ACTOR}.use_kl_loss=true", f"{_ACTOR}.kl_loss_coef=0.7"),
    ],
    ids=["one", "small and shuffled", "tokens", "terms"],
)
def test_the_policy_update(model: PreTrainedModel, owners: Sequence[int], further: Sequence[str]) -> None:
    section = configured(*further).actor_rollout_ref.actor
    batch = make_batch(model)

    def work(world: World) -> tuple[list[dict[str, Tensor]], dict[str, float], int]:
        policy = Policy(copy.deepcopy(model))
        actor = Actor(policy, section.optim, 10, world)
        captured, calls = Captured(actor, world), counting(policy.model.get_decoder())
        update = PolicyUpdate(actor, section, 1.0, Cut.of_actor(section, 1), PhaseClock(), world)
        stats = update.update(part_of(batch, world, owners), step=3)
        return captured.gradients, to_floats(world.merge(stats)), len(calls)

    assert_as_one_process(work)


@pytest.mark.parametrize("owners", OWNERS.values(), ids=list(OWNERS))
def test_the_value_critic(model: PreTrainedModel, owners: Sequence[int]) -> None:
    section = configured(
        "algorithm.adv_estimator=gae", "critic.ppo_mini_batch_size=2", "critic.ppo_max_token_len_per_gpu=25"
    ).critic
    batch = make_batch(model)

    def work(world: World) -> tuple[list[dict[str, Tensor]], dict[str, float], int]:
        torch.manual_seed(7)
        scorer = Scorer(copy.deepcopy(model))
        trained = TrainedScorer(scorer, section.optim, 10, world)
        nn.init.normal_(scorer.model["head"].weight, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        captured, calls = Captured(trained, world), counting(scorer.model["decoder"])
        critic = ValueCritic(trained, section, Cut.of_critic(section, 1), PhaseClock(), world)
        own = part_of(batch, world, owners)
        critic.prepare(own)
        stats = critic.update(own, own.groups, step=1)
        return captured.gradients, to_floats(world.merge(stats)), len(calls)

    assert_as_one_process(work)


@pytest.mark.parametrize("owners", OWNERS.values(), ids=list(OWNERS))
def test_the_discriminator(model: PreTrainedModel, owners: Sequence[int]) -> None:
    config = configured("critic.enable=true", "critic.ppo_mini_batch_size=2", "critic.ppo_max_token_len_per_gpu=25")
    batch = GroupBatch.from_groups(make_groups())

    def work(world: World) -> tuple[list[dict[str, Tensor]], dict[str, float], int]:
        scorer = Scorer(copy.deepcopy(model))
        nn.init.normal_(scorer.model["head"].weight, generator=torch.Generator().manual_seed(1))  # type: ignore[arg-type]
        trained = TrainedScorer(scorer, config.critic.optim, 10, world)
        captured, calls = Captured(trained, world), counting(scorer.model["decoder"])
        discriminator = Discriminator(
            trained,
            config.critic.discriminator,
            weight=1.0,
            cut=Cut.of_critic(config.critic, 1),
            stages=Stages(0, 0),
            tokenizer=None,  # type: ignore[arg-type]
            ends=Ends((2,), 2, ()),
            max_response_length=8,
            clock=PhaseClock(),
            world=world,
        )
        own = part_of(batch, world, owners)
        scored = [replace(group, responses=[replace(r) for r in group.responses]) for group in own.groups]
        stats = discriminator.score(scored) | discriminator.update(own, own.groups, step=1)
        stats |= discriminator.teacher_control([*own.groups], prefix="control")
        return captured.gradients, to_floats(world.merge(stats)), len(calls)

    assert_as_one_process(work)


@pytest.mark.parametrize("owners", OWNERS.values(), ids=list(OWNERS))
def test_the_imitation(model: PreTrainedModel, owners: Sequence[int]) -> None:
    section = configured(f"{_ACTOR}.ppo_mini_batch_size=2", f"{_ACTOR}.ppo_max_token_len_per_gpu=15")
    batch = GroupBatch.from_groups(make_groups())

    def work(world: World) -> tuple[list[dict[str, Tensor]], dict[str, float], int]:
        policy = Policy(copy.deepcopy(model))
        actor = Actor(policy, section.actor_rollout_ref.actor.optim, 10, world)
        captured, calls = Captured(actor, world), counting(policy.model.get_decoder())
        cut = Cut.of_actor(section.actor_rollout_ref.actor, 1)
        stats = Imitation(actor, cut, 1e-3, PhaseClock(), world).update(part_of(batch, world, owners), 1, False)
        return captured.gradients, to_floats(world.merge(stats)), len(calls)

    assert_as_one_process(work)


@pytest.mark.parametrize("estimator", ["gae", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "gdpo", "grpo"])
def test_advantages_that_are_whitened_over_the_batch(model: PreTrainedModel, estimator: str) -> None:
    algorithm = configured(f"algorithm.adv_estimator={estimator}").algorithm
    batch = make_batch(model)
    add_advantages(batch, algorithm, Alone())
    owners = OWNERS["uneven"]

    def work(rank: RankOf) -> GroupBatch:
        own = part_of(batch, rank, owners)
        add_advantages(own, algorithm, rank)
        return own

    for rank, own in enumerate(on_ranks(work)[0]):
        expected = batch.select([number for number, owner in enumerate(owners) if owner == rank])
        torch.testing.assert_close(own["advantages"], expected["advantages"])


def test_the_adaptive_weight_of_the_divergence_moves_alike(model: PreTrainedModel) -> None:
    algorithm = configured("algorithm.use_kl_in_reward=true", "algorithm.kl_ctrl.type=adaptive").algorithm
    batch = make_batch(model)

    def work(world: World) -> tuple[float, float]:
        controller = AdaptiveKLController(0.1, 0.01, 40)
        stats = add_rewards(part_of(batch, world, OWNERS["uneven"]), controller, algorithm, world)
        return controller.value, float(stats["actor/reward_kl_penalty"])

    alone = work(Alone())
    assert alone[0] != 0.1
    for theirs in on_ranks(work)[0]:
        assert theirs == pytest.approx(alone, rel=1e-9)


def test_a_gradient_that_is_not_finite_on_one_rank_stops_both() -> None:
    def work(rank: RankOf) -> tuple[bool, float]:
        torch.manual_seed(0)
        module = nn.Linear(3, 1)
        trained = Trained(module, configured().critic.optim, 10, name="critic", model_key="k", world=rank)
        before = module.weight.detach().clone()
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if rank.rank == 1 else 1.0)
        stats = trained.step()
        return torch.equal(before, module.weight), float(stats["critic/skipped_steps"])

    assert on_ranks(work)[0] == [(True, 1.0), (True, 1.0)]


def test_weights_that_are_not_finite_on_one_rank_are_an_error_on_both() -> None:
    messages: dict[int, str] = {}

    def work(rank: RankOf) -> None:
        module = nn.Linear(3, 1)
        trained = Trained(module, configured().critic.optim, 10, name="critic", model_key="k", world=rank)
        with torch.no_grad():
            module.weight.fill_(torch.inf if rank.rank == 0 else 1.0)
        with pytest.raises(ValueError, match="training has diverged") as caught:
            trained.advance()
        messages[rank.rank] = str(caught.value)

    on_ranks(work)
    assert "weight of the critic" in messages[0]
    assert "on another rank" in messages[1]


def test_a_step_without_rewards_is_an_error_only_where_no_rank_has_one() -> None:
    def groups(*values: float | None) -> list[Group]:
        outcomes = [Outcome(abstained="unread") if value is None else Outcome(value) for value in values]
        responses = [Response([1], [0.0], "", "stop", outcome=outcome) for outcome in outcomes]
        return [replace(make_groups()[0], responses=responses)]

    kept, _ = on_ranks(lambda rank: with_rewards(groups(None, None) if rank.rank else groups(1, 0), True, rank))
    assert [len(own) for own in kept] == [1, 0]
    with pytest.raises(ValueError, match="none of the 4 responses"):
        on_ranks(lambda rank: with_rewards(groups(None, None), True, rank))


def test_old_log_probs_serve_on_every_rank_or_on_none(model: PreTrainedModel) -> None:
    batch, said = make_batch(model), list[str]()
    batch["rollout_log_probs"] = Policy(copy.deepcopy(model)).log_probs(batch)[0].detach().float()

    def work(rank: RankOf) -> Tensor:
        own = part_of(batch, rank, OWNERS["in turn"])
        if rank.rank == 1:
            own["rollout_log_probs"] = own["rollout_log_probs"] - 0.5
        policy = Policy(copy.deepcopy(model))
        old = OldLogProbs(policy, 1.0, Cut(30), Cut(30), None, Limits(1e-3, 1e-3), said.append, rank)
        assert old.add(own, 1)  # a pass was made, and its entropy is there
        assert old.add(own, 1)
        return (own["old_log_probs"] - own["rollout_log_probs"]).abs().max()

    furthest = on_ranks(work)[0]
    assert float(furthest[0]) < 1e-4
    assert float(furthest[1]) > 0.4
    assert len(said) == 2


class _Prompts(list):
    """Prompts as a data set."""


def _collector(world: World, groups: list[Group], asked: list[list[str]]) -> Collector:
    """Samples the given groups in place of a model's."""
    by_uid = {group.prompt.uid: group for group in groups}

    def generate(prompts: Sequence[Any], *_: Any, **__: Any) -> list[Group]:
        asked.append([prompt.uid for prompt in prompts])
        return [replace(by_uid[prompt.uid], place=-1) for prompt in prompts]

    return Collector(
        data=_Prompts(group.prompt for group in groups),  # type: ignore[arg-type]
        sampler=PromptSampler(len(groups), 4, shuffle=False),
        engine=SimpleNamespace(generate=generate),  # type: ignore[arg-type]
        sampling=None,  # type: ignore[arg-type]
        n=2,
        rewards=lambda groups: {"reward/calls": Mean(float(len(groups)), float(len(groups)))},
        critic=NoCritic(),
        clock=PhaseClock(),
        world=world,
    )


def _scored(number: int, useful: bool) -> Group:
    group = make_groups()[0]
    responses = [Response([1], [0.0], "", "stop", outcome=Outcome(float(useful and i))) for i in range(2)]
    return Group(replace(group.prompt, uid=f"p:{number}"), responses)


def test_filtered_groups_are_the_same_ones_for_any_number_of_ranks() -> None:
    groups = [_scored(number, useful=number in (1, 2, 5, 6, 7, 9)) for number in range(12)]
    settings = configured("algorithm.filter_groups.enable=true").algorithm.filter_groups

    def work(world: World) -> tuple[list[str], dict[str, float], int]:
        asked: list[list[str]] = []
        filtering = FilteringCollector(_collector(world, groups, asked), settings, 4, 3, lambda _: None, world)
        kept, stats, _ = filtering.collect(step=1)
        return [group.prompt.uid for group in kept], to_floats(world.merge(stats)), len(asked)

    kept, figures, rounds = work(Alone())
    assert kept == ["p:1", "p:2", "p:5", "p:6"]
    results, _ = on_ranks(work)
    assert sorted(uid for own, _, _ in results for uid in own) == kept
    assert [own for own, _, _ in results] == [["p:2", "p:6"], ["p:1", "p:5"]]
    assert [count for _, _, count in results] == [rounds, rounds]
    assert all(theirs == pytest.approx(figures) for _, theirs, _ in results)


def test_mini_batches_are_of_the_same_groups_for_any_number_of_ranks(model: PreTrainedModel) -> None:
    batch = make_batch(model)
    cut = Cut(10**6, size=2, epochs=2, shuffle=True, seed=4)

    def work(world: World) -> list[list[int]]:
        own = part_of(batch, world, OWNERS["uneven"])
        return [[group.place for group in part.groups] for part in mini_batches(own, cut, world, step=2)]

    whole = work(Alone())
    assert len(whole) == 6
    theirs = on_ranks(work)[0]
    for number, places in enumerate(whole):
        assert sorted(place for own in theirs for place in own[number]) == sorted(places)


def test_every_rank_makes_the_same_number_of_passes(model: PreTrainedModel) -> None:
    batch = make_batch(model)

    def work(world: World) -> list[bool]:
        return [part.weightless for part in passes(part_of(batch, world, OWNERS["uneven"]), Cut(15), world)]

    first, second = on_ranks(work)[0]
    assert len(first) == len(second)
    assert not any(first)
    assert second[-1]
    assert not any(work(Alone()))
