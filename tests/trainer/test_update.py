"""The update of one optimizer batch against a plain padded forward in float64 and the formulas as Python loops."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from models_helpers import random_groups, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from gspo.algorithms.kl import AdaptiveKLController, FixedKLController
from gspo.algorithms.stats import Stat, to_floats
from gspo.config import Config, load_config
from gspo.groups import GroupBatch, Outcome
from gspo.models import Policy
from gspo.observe import PhaseClock
from gspo.trainer import opened
from gspo.trainer.advantages import add_advantages, add_rewards
from gspo.trainer.batching import Cut, mini_batches
from gspo.trainer.old_log_probs import add_log_probs
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.preparation import HeldReference
from gspo.trainer.trained import Actor
from gspo.world import Alone

_TEMPERATURE = 0.7
_TOLERANCE = 1e-5  # norms and rotary angles are float32 whatever the model's type
_NUM_GROUPS = 4
_LOSSES = {
    "gspo": ("actor_rollout_ref.actor.clip_ratio_low=0.01", "actor_rollout_ref.actor.clip_ratio_high=0.02"),
    "vanilla": ("actor_rollout_ref.actor.clip_ratio=0.1", "actor_rollout_ref.actor.clip_ratio_c=1.05"),
}
_EXTRAS = (
    "actor_rollout_ref.actor.entropy_coeff=0.3",
    "actor_rollout_ref.actor.use_kl_loss=true",
    "actor_rollout_ref.actor.kl_loss_coef=0.7",
)


class CapturingActor(Actor):
    """Keeps each optimizer batch's gradients in place of a step."""

    def __init__(self, model: PreTrainedModel, config: Config) -> None:
        super().__init__(Policy(model), config.actor_rollout_ref.actor.optim, total_steps=10)
        self.gradients: list[dict[str, Tensor]] = []

    def step(self) -> dict:
        named = self.policy.model.named_parameters()
        self.gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
        self.optimizer.zero_grad(set_to_none=True)
        return {}


def configured(*overrides: str) -> Config:
    base = [
        f"data.train_batch_size={_NUM_GROUPS}",
        f"actor_rollout_ref.rollout.temperature={_TEMPERATURE}",
        "actor_rollout_ref.actor.skip_zero_advantages=false",  # the figures of all tokens are compared
    ]
    given = {override.partition("=")[0] for override in overrides}
    return load_config(None, None, [*(text for text in base if text.partition("=")[0] not in given), *overrides])


def update_actor(batch: GroupBatch, actor: Actor, config: Config, step: int) -> dict[str, Stat]:
    """The policy's updates of one step, as a run of this configuration makes them."""
    section, temperature = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.temperature
    cut = Cut.of_actor(section, config.trainer.seed)
    return PolicyUpdate(actor, section, temperature, cut, PhaseClock(), Alone()).update(batch, step)


def make_batch(model: PreTrainedModel, seed: int = 0, *, with_old: bool = True) -> GroupBatch:
    """Groups with rewards and advantages; old and reference log-probabilities a little off the policy's own."""
    groups = random_groups(seed, _NUM_GROUPS)
    draw = random.Random(seed)
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(draw.choice([0.0, 0.5, 1.0]))
    batch = GroupBatch.from_groups(groups)
    generator = torch.Generator().manual_seed(seed)
    log_probs, _ = Policy(model).log_probs(batch, _TEMPERATURE)
    for name in ("old_log_probs", "ref_log_prob")[0 if with_old else 1 :]:
        noise = 0.15 * torch.randn(log_probs.shape, generator=generator, dtype=log_probs.dtype)
        batch[name] = ((log_probs.detach() + noise) * batch["response_mask"]).float()
    batch["token_level_rewards"] = batch["token_level_scores"]
    add_advantages(batch, configured().algorithm, Alone())
    return batch


def plain_loss(
    model: PreTrainedModel, batch: GroupBatch, name: str, *, extras: bool
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one optimizer batch and its figures: a forward for each sequence, a loop over its tokens."""
    responses = [(group.prompt, response) for group in batch.groups for response in group.responses]
    count = sum(bool(response.token_ids) for _, response in responses)
    num_tokens = sum(len(response) for _, response in responses)
    loss = torch.zeros((), dtype=torch.float64)
    kl_loss = torch.zeros((), dtype=torch.float64)
    entropy_bonus = torch.zeros((), dtype=torch.float64)
    clipped_tokens, clipped_sequences, drift, ratios = 0, 0, 0.0, []
    for row, (prompt, response) in enumerate(responses):
        length = len(response)
        if length == 0:
            continue
        start = len(prompt.token_ids) - 1
        logits = model(input_ids=torch.tensor([[*prompt.token_ids, *response.token_ids]]), use_cache=False).logits[0]
        log_p = (logits / _TEMPERATURE).log_softmax(-1)[start : start + length]
        new = log_p.gather(1, torch.tensor(response.token_ids)[:, None])[:, 0]
        old, ref = batch["old_log_probs"][row].double(), batch["ref_log_prob"][row].double()
        advantage = float(batch["advantages"][row, 0])
        own, weight = torch.zeros((), dtype=torch.float64), 1 / (count * length if name == "gspo" else num_tokens)
        sequence = torch.exp(sum(new[t] - old[t] for t in range(length)) / length)
        ratios.append(float(sequence.detach()))
        drift -= sum(float(new[t].detach() - old[t]) for t in range(length))
        was_clipped = False
        for t in range(length):
            ratio = sequence if name == "gspo" else torch.exp(new[t] - old[t])
            low, high = (0.99, 1.02) if name == "gspo" else (0.9, 1.1)
            plain, bounded = ratio * advantage, ratio.clamp(low, high) * advantage
            gain = torch.min(plain, bounded)
            was_clipped = bool(bounded < plain)
            clipped_tokens += was_clipped
            if name == "vanilla" and advantage < 0:
                gain = torch.max(gain, torch.tensor(1.05 * advantage, dtype=torch.float64))
            own = own - gain * weight
            backwards = ref[t] - new[t]
            kl_loss = kl_loss + (backwards.exp() - backwards - 1) * weight
            entropy_bonus = entropy_bonus - (log_p[t].exp() * log_p[t]).sum() * weight
        clipped_sequences += was_clipped
        loss = loss + own
    figures = {
        "actor/pg_loss": float(loss.detach()),
        "actor/pg_clipfrac": clipped_tokens / num_tokens,
        "actor/ppo_kl": drift / num_tokens,
    }
    if name == "gspo":
        figures["actor/seq_clipfrac"] = clipped_sequences / count
        figures["actor/seq_ratio/mean"] = sum(ratios) / count
        figures["actor/seq_ratio/min"], figures["actor/seq_ratio/max"] = min(ratios), max(ratios)
    if extras:
        figures |= {"actor/kl_loss": float(kl_loss.detach()), "actor/kl_coef": 0.7}
        loss = loss - 0.3 * entropy_bonus + 0.7 * kl_loss
    return loss, figures


def plain_gradients(model: PreTrainedModel, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = _TOLERANCE) -> None:
    assert ours.keys() == theirs.keys()
    largest = max(float(gradient.abs().max()) for gradient in theirs.values())
    assert largest > 1e-3  # there is something to compare
    for name, expected in theirs.items():
        assert float((ours[name] - expected).abs().max()) / largest < tolerance, name


def plain_copy(model: PreTrainedModel) -> PreTrainedModel:
    plain = copy.deepcopy(model)
    plain.config._attn_implementation = "eager"
    return plain


@pytest.mark.parametrize("extras", [False, True], ids=["bare", "with entropy and kl"])
@pytest.mark.parametrize("loss", _LOSSES)
def test_any_split_and_order_is_the_oracles_update(loss: str, extras: bool) -> None:
    model = tiny_model("llama", scale=4.0)
    batch = make_batch(model)
    expected, figures = plain_loss(plain := plain_copy(model), batch, loss, extras=extras)
    gradient = plain_gradients(plain, expected)
    assert 0 < figures["actor/pg_clipfrac"] < 1
    key = "actor_rollout_ref.actor"
    for split in (
        "ppo_max_token_len_per_gpu=1",
        "ppo_max_token_len_per_gpu=30",
        "ppo_max_token_len_per_gpu=10000",
        "ppo_micro_batch_size_per_gpu=1",
        "ppo_micro_batch_size_per_gpu=3",
    ):
        further = _EXTRAS if extras else ()
        config = configured(f"{key}.policy_loss={loss}", *_LOSSES[loss], *further, f"{key}.{split}")
        for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
            actor = CapturingActor(model, config)
            metrics = to_floats(update_actor(batch.select(order), actor, config, step=1))
            assert len(actor.gradients) == 1
            assert_same(actor.gradients[0], gradient)
            for name, value in figures.items():
                assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, split)


@pytest.mark.parametrize("loss", _LOSSES)
def test_each_mini_batch_is_an_update_of_its_own_prompts(loss: str) -> None:
    model = tiny_model("llama", scale=4.0)
    batch = make_batch(model, seed=1)
    key = "actor_rollout_ref.actor"
    config = configured(
        f"{key}.policy_loss={loss}", *_LOSSES[loss], f"{key}.ppo_mini_batch_size=3", f"{key}.ppo_epochs=2"
    )
    actor = CapturingActor(model, config)
    metrics = to_floats(update_actor(batch, actor, config, step=1))
    assert len(actor.gradients) == 4
    plain, losses = plain_copy(model), []
    for ours, numbers in zip(actor.gradients, [[0, 1, 2], [3], [0, 1, 2], [3]], strict=True):
        expected, figures = plain_loss(plain, batch.select(numbers), loss, extras=False)
        losses.append(figures["actor/pg_loss"])
        assert_same(ours, plain_gradients(plain, expected))
    assert metrics["actor/pg_loss"] == pytest.approx(sum(losses) / 4, rel=1e-4)


@pytest.mark.parametrize("loss", _LOSSES)
def test_without_old_log_probs_the_policy_is_its_own_old_policy(loss: str) -> None:
    model = tiny_model("llama", scale=4.0)
    config = configured(f"actor_rollout_ref.actor.policy_loss={loss}")
    own, given = (make_batch(model, seed=2, with_old=False) for _ in range(2))
    cut = Cut(config.actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu)
    before = to_floats(add_log_probs(given, Policy(model), _TEMPERATURE, cut, Alone()))
    actors = [CapturingActor(model, config) for _ in range(2)]
    metrics = [to_floats(update_actor(b, a, config, step=1)) for b, a in zip((own, given), actors, strict=True)]
    assert_same(actors[0].gradients[0], actors[1].gradients[0])
    assert metrics[0]["actor/entropy"] == pytest.approx(before["actor/entropy"], rel=1e-6)
    for name in ("actor/pg_loss", "actor/pg_clipfrac", "actor/ppo_kl"):
        assert metrics[0][name] == pytest.approx(metrics[1][name], abs=1e-6)


def orders(config: Config, batch: GroupBatch, step: int) -> list[list[str]]:
    cut = Cut.of_actor(config.actor_rollout_ref.actor, config.trainer.seed)
    return [[group.prompt.uid for group in part.groups] for part in mini_batches(batch, cut, Alone(), step)]


def test_shuffling_is_a_function_of_seed_step_and_epoch() -> None:
    model = tiny_model("llama")
    batch = GroupBatch.from_groups(make_batch(model).groups)
    key = "actor_rollout_ref.actor"
    plain = configured(f"{key}.ppo_mini_batch_size=3", f"{key}.ppo_epochs=2")
    assert orders(plain, batch, 1) == [["f:0", "f:1", "f:2"], ["f:3"]] * 2

    def shuffled(step: int, seed: int = 1) -> list[list[str]]:
        overrides = (f"{key}.ppo_mini_batch_size=1", f"{key}.ppo_epochs=6", f"{key}.shuffle=true")
        return orders(configured(*overrides, f"trainer.seed={seed}"), batch, step)

    assert shuffled(3) == shuffled(3)
    assert shuffled(3) != shuffled(4)
    assert shuffled(3) != shuffled(3, seed=2)
    epochs = [shuffled(3)[start : start + 4] for start in range(0, 24, 4)]
    assert all(sorted(uid for part in epoch for uid in part) == ["f:0", "f:1", "f:2", "f:3"] for epoch in epochs)
    assert any(epoch != epochs[0] for epoch in epochs)


def padded(rows: Sequence[Sequence[float]], width: int) -> Tensor:
    return torch.tensor([[*row, *[0.0] * (width - len(row))] for row in rows])


def test_divergence_in_the_reward() -> None:
    model = tiny_model("llama")
    batch = make_batch(model, seed=3)
    width = batch["response_mask"].shape[1]
    lengths = [len(response) for group in batch.groups for response in group.responses]
    old, ref = batch["old_log_probs"].tolist(), batch["ref_log_prob"].tolist()
    gaps = [[old[i][t] - ref[i][t] for t in range(n)] for i, n in enumerate(lengths)]
    current = sum(sum(row) / max(len(row), 1) for row in gaps) / len(gaps)
    for target, error in ((current / 1.1, 0.1), (current / 5, 0.2), (abs(current) * 50, -0.2)):
        if target <= 0:
            continue
        config = configured("algorithm.use_kl_in_reward=true")
        adaptive, fixed = AdaptiveKLController(0.5, target, 1000), FixedKLController(0.5)
        for controller in (adaptive, fixed):
            metrics = to_floats(add_rewards(batch, controller, config.algorithm, Alone()))
            expected = batch["token_level_scores"] - 0.5 * padded(gaps, width)
            torch.testing.assert_close(batch["token_level_rewards"], expected)
            assert metrics["actor/reward_kl_penalty"] == pytest.approx(current, rel=1e-4)
            assert metrics["actor/reward_kl_penalty_coeff"] == 0.5
        assert adaptive.value == pytest.approx(0.5 * (1 + error * len(gaps) / 1000), rel=1e-6)
        assert fixed.value == 0.5


def test_the_reference_is_read_at_the_sampling_temperature() -> None:
    model, reference = tiny_model("llama"), tiny_model("qwen2")
    batch = make_batch(model)
    held = HeldReference(
        Policy(reference), Policy(model), _TEMPERATURE, Cut(20), every=None, warm=0, clock=PhaseClock(), world=Alone()
    )
    held.add(batch)
    expected, _ = Policy(reference).log_probs(batch, _TEMPERATURE)
    torch.testing.assert_close(batch["ref_log_prob"], expected.float())


def test_a_run_takes_temperature_and_order_from_its_configuration(
    run_overrides: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, rollout = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
    updates = (f"{key}.ppo_mini_batch_size=1", f"{key}.ppo_epochs=2", f"{key}.shuffle=true", f"{key}.use_kl_loss=true")
    further = ("algorithm.rollout_correction.bypass_mode=false", f"{rollout}.temperature={_TEMPERATURE}")
    config = load_config(overrides=run_overrides(*updates, *further, "trainer.seed=3"))
    batch = GroupBatch.from_groups(make_batch(tiny_model("llama")).groups)
    seen: list[list[str]] = []
    with opened(config) as run:
        policy, phase = run.actor.policy, run.schedule.at(1)
        phase.prepare(batch, 1)
        with torch.no_grad():
            expected, plain = (policy.log_probs(batch, temperature)[0] for temperature in (_TEMPERATURE, 1.0))
        assert float((expected - plain).abs().max()) > 0.01
        for name in ("old_log_probs", "ref_log_prob"):  # the reference is the policy that the run began with
            torch.testing.assert_close(batch[name], expected)
        batch["rollout_log_probs"] = expected
        original = policy.log_probs_and_values
        monkeypatch.setattr(
            policy,
            "log_probs_and_values",
            lambda part, *arguments, **named: (
                seen.append([group.prompt.uid for group in part.groups]) or original(part, *arguments, **named)
            ),
        )
        metrics = to_floats(phase.update_policy(batch, 2, True))
    assert metrics["training/rollout_probs_diff_max"] < 1e-5
    assert seen == orders(config, batch, 2) != orders(load_config(overrides=run_overrides(*updates)), batch, 2)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted() -> None:
    model = tiny_model("llama", torch.float32)
    key = "actor_rollout_ref.actor"
    config = configured(f"{key}.policy_loss=gspo", f"{key}.ppo_mini_batch_size=2", f"{key}.optim.lr=0.1")
    batch = make_batch(model)
    batch["advantages"][batch.group_index < 2] = math.inf
    actor = Actor(Policy(model), config.actor_rollout_ref.actor.optim, 10)
    only_bad, weights = batch.select([0, 1]), copy.deepcopy(model.state_dict())
    metrics = to_floats(update_actor(only_bad, actor, config, step=1))
    assert metrics["actor/skipped_steps"] == 1.0
    assert "actor/grad_norm" not in metrics
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not actor.optimizer.state
    assert all(p.grad is None for p in model.parameters())

    metrics = to_floats(update_actor(batch, actor, config, step=2))
    assert metrics["actor/skipped_steps"] == 0.5
    assert math.isfinite(metrics["actor/grad_norm"])
    assert any(not torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
