"""PPO's value head on the actor's backbone: against plain autograd on padded inputs; warmup, checkpoints, refusals."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from messages import names
from models_helpers import random_groups, tiny_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from gspo.algorithms.stats import Stat, to_floats
from gspo.checkpoint import CheckpointError, load_checkpoint
from gspo.config import Config, ConfigError, load_config, notices, require_supported
from gspo.groups import GroupBatch, Outcome
from gspo.models import Backbone, Policy, scalar_head
from gspo.observe import PhaseClock
from gspo.trainer import train
from gspo.trainer.advantages import add_advantages, add_rewards
from gspo.trainer.batching import Cut
from gspo.trainer.old_log_probs import add_log_probs
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.trained import Actor
from gspo.trainer.value_critic import SharedValueHead
from gspo.world import Alone

Overrides = Callable[..., list[str]]
ACTOR = "actor_rollout_ref.actor"
SHARED = ("algorithm.adv_estimator=gae", f"{ACTOR}.policy_loss=ppo", "critic.shared_backbone=true")
_TEMPERATURE = 0.7
_TOLERANCE = 2e-5  # norms and rotary angles are float32 whatever the model's type
_COEF = 0.8
_CLIP_VALUE = 0.1
_LOSSES = {"ppo": (0.9, 1.1), "gspo": (0.99, 1.02)}


class CapturingActor(Actor):
    """Keeps each optimizer batch's gradients in place of a step."""

    def __init__(self, config: Config) -> None:
        model = tiny_model("llama", scale=4.0)
        head = scalar_head(model, std=0.3)  # not zero, so that its gradient reaches the model
        nn.init.constant_(head.bias, 0.2)
        super().__init__(Policy(model, head), config.actor_rollout_ref.actor.optim, total_steps=10)
        self.gradients: list[dict[str, Tensor]] = []
        self.rates: list[float] = []

    def step(self) -> dict[str, Any]:
        self.rates.append(self.lr)
        self.gradients.append({n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None})
        self.optimizer.zero_grad(set_to_none=True)
        return {}


def settings(*overrides: str) -> Config:
    base = ("data.train_batch_size=4", f"actor_rollout_ref.rollout.temperature={_TEMPERATURE}", "algorithm.lam=0.9")
    numbers = (f"critic.value_loss_coef={_COEF}", f"critic.cliprange_value={_CLIP_VALUE}")
    given = {override.partition("=")[0] for override in overrides}
    kept = [text for text in (*base, *SHARED, *numbers) if text.partition("=")[0] not in given]
    return load_config(overrides=[*kept, *overrides])


def add_old(batch: GroupBatch, actor: Actor, config: Config) -> None:
    """Old log-probabilities and values."""
    rollout = config.actor_rollout_ref.rollout
    add_log_probs(batch, actor.policy, rollout.temperature, Cut(rollout.log_prob_max_token_len_per_gpu), Alone())


def value_head(actor: Actor, config: Config) -> SharedValueHead:
    cut = Cut.of_actor(config.actor_rollout_ref.actor, config.trainer.seed)
    return SharedValueHead(actor, config.critic, cut, PhaseClock(), Alone())


def update_actor(batch: GroupBatch, actor: Actor, config: Config, step: int) -> dict[str, Stat]:
    """The policy's updates of one step, in which the head learns."""
    section, temperature = config.actor_rollout_ref.actor, config.actor_rollout_ref.rollout.temperature
    cut = Cut.of_actor(section, config.trainer.seed)
    head = value_head(actor, config)
    return PolicyUpdate(actor, section, temperature, cut, PhaseClock(), Alone(), head).update(batch, step)


def update_value_head(batch: GroupBatch, actor: Actor, config: Config, step: int) -> dict[str, Stat]:
    """The head's updates of one step of warmup."""
    return value_head(actor, config).update_alone(batch, step, with_entropy=False)


def prepared(config: Config, seed: int = 0) -> tuple[GroupBatch, CapturingActor]:
    """A batch whose old log-probabilities and values moved a little, as if the model had been updated since."""
    draw, actor = random.Random(seed), CapturingActor(config)
    groups = random_groups(seed, 4)
    for group in groups:
        for response in group.responses:
            response.outcome = Outcome(draw.gauss(0, 1))
            if len(response) > 3:  # some tokens that the policy did not write
                response.loss_mask = [True, *(draw.random() < 0.6 for _ in response.token_ids[2:]), True]
    batch = GroupBatch.from_groups(groups)
    add_old(batch, actor, config)
    add_rewards(batch, None, config.algorithm, Alone())  # type: ignore[arg-type]  # no divergence is asked for
    add_advantages(batch, config.algorithm, Alone())
    generator = torch.Generator().manual_seed(seed)
    for name, size in (("old_log_probs", 0.15), ("values", 0.3)):
        noise = size * torch.randn(batch[name].shape, dtype=batch[name].dtype, generator=generator)
        batch[name] = (batch[name] + noise) * batch["response_mask"]
    return batch, actor


def padded_forward(actor: Actor, batch: GroupBatch) -> tuple[Tensor, Tensor, nn.ModuleDict]:
    """(log-probabilities, values) (responses, width) of a right-padded batch of whole sequences, and the model used."""
    module = copy.deepcopy(actor.module)
    module.zero_grad()
    model: PreTrainedModel = module["model"]
    model.config._attn_implementation = "eager"
    pairs = [(list(g.prompt.token_ids), list(r.token_ids)) for g in batch.groups for r in g.responses]
    longest = max(len(prompt) + len(response) for prompt, response in pairs)
    ids, attended = (torch.zeros(len(pairs), longest, dtype=torch.long) for _ in range(2))
    for row, (prompt, response) in enumerate(pairs):
        ids[row, : len(prompt) + len(response)] = torch.tensor(prompt + response)
        attended[row, : len(prompt) + len(response)] = 1
    hidden = model.get_decoder()(input_ids=ids, attention_mask=attended, use_cache=False).last_hidden_state
    every_log_p = (model.get_output_embeddings()(hidden) / _TEMPERATURE).log_softmax(-1)
    every_value = hidden @ module["value_head"].weight[0] + module["value_head"].bias
    log_probs, values = (torch.zeros_like(batch["response_mask"], dtype=torch.float64) for _ in range(2))
    for row, (prompt, response) in enumerate(pairs):
        for t, token in enumerate(response):
            at, place = len(prompt) - 1 + t, (torch.tensor([row]), torch.tensor([t]))
            log_probs = log_probs.index_put(place, every_log_p[row, at, token])
            values = values.index_put(place, every_value[row, at])
    return log_probs, values, module


def two_term_loss(log_probs: Tensor, values: Tensor, batch: GroupBatch, loss: str) -> tuple[Tensor, Tensor]:
    """(the policy's, the value's) of one optimizer batch, from the formulas, in float64."""
    mask, advantages = batch["response_mask"].double(), batch["advantages"].double()
    lengths, count = mask.sum(-1), (mask.sum(-1) > 0).sum()
    drift = (log_probs - batch["old_log_probs"].double()) * mask
    weight = mask / mask.sum()
    if loss == "gspo":
        drift = (drift.sum(-1) / lengths.clamp(min=1))[:, None].expand_as(drift)
        weight = mask / lengths.clamp(min=1)[:, None] / count
    ratio, (low, high) = drift.exp(), _LOSSES[loss]
    gain = torch.minimum(ratio * advantages, ratio.clamp(low, high) * advantages)
    if loss == "ppo":
        gain = torch.where(advantages < 0, torch.maximum(gain, 3.0 * advantages), gain)
    old, target = batch["values"].double(), batch["returns"].double()
    near = torch.maximum(torch.minimum(values, old + _CLIP_VALUE), old - _CLIP_VALUE)
    error = torch.maximum((values - target) ** 2, (near - target) ** 2)
    return -(gain * weight).sum(), 0.5 * (error * mask).sum() / mask.sum()


def largest_difference(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Between gradients of the same parameters, as a part of each one's largest entry."""
    assert found.keys() == expected.keys()
    return max(
        float((found[name] - grad).abs().max()) / max(1e-3, float(grad.abs().max())) for name, grad in expected.items()
    )


def clip_keys(loss: str) -> tuple[str, str, str]:
    low, high = _LOSSES[loss]
    return f"{ACTOR}.policy_loss={loss}", f"{ACTOR}.clip_ratio_low={1 - low}", f"{ACTOR}.clip_ratio_high={high - 1}"


@pytest.mark.parametrize("loss", _LOSSES)
def test_the_update_against_plain_autograd(loss: str) -> None:
    config = settings(*clip_keys(loss))
    batch, actor = prepared(config)
    log_probs, values, module = padded_forward(actor, batch)
    policy_loss, value_loss = two_term_loss(log_probs, values, batch, loss)
    (policy_loss + _COEF * value_loss).backward()
    expected = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    metrics = to_floats(update_actor(batch, actor, config, step=1))
    assert len(actor.gradients) == 1
    assert set(expected) == {name for name, _ in actor.module.named_parameters()}  # every parameter, head and model
    assert largest_difference(actor.gradients[0], expected) < _TOLERANCE
    written, old = batch["response_mask"].bool(), batch["values"]
    moved = (values.detach() - old).abs()
    assert metrics["actor/pg_loss"] == pytest.approx(policy_loss.item(), rel=1e-4)
    assert metrics["critic/vf_loss"] == pytest.approx(value_loss.item(), rel=1e-4)
    assert metrics["critic/vpred_mean"] == pytest.approx(float(values.detach()[written].mean()), rel=1e-4)
    assert 0 < metrics["critic/vf_clipfrac"] < float((moved[written] > _CLIP_VALUE).double().mean())


def test_old_values_come_with_old_log_probs_from_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings()
    batch, actor = prepared(config)
    passes, forward = [], Backbone.forward
    monkeypatch.setattr(Backbone, "forward", lambda *args: passes.append(1) or forward(*args))
    add_old(batch, actor, config)
    assert len(passes) == 1
    update_actor(batch, actor, config, step=1)
    assert len(passes) == 2
    log_probs, values, _ = padded_forward(actor, batch)
    for name, expected in (("old_log_probs", log_probs), ("values", values)):
        assert not batch[name].requires_grad
        torch.testing.assert_close(batch[name].double(), expected.detach(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("mode", ["token-mean", "seq-mean-token-mean"])
def test_any_micro_batch_split_gives_the_same_update(mode: str, warmup: bool) -> None:
    update = update_value_head if warmup else update_actor
    found = {}
    splits = ("ppo_max_token_len_per_gpu=10000", "ppo_max_token_len_per_gpu=20", "ppo_micro_batch_size_per_gpu=1")
    for split in splits:
        config = settings(f"critic.loss_agg_mode={mode}", f"{ACTOR}.{split}")
        batch, actor = prepared(config)
        found[split] = to_floats(update(batch, actor, config, step=1)), actor.gradients[0]
    metrics, gradients = found[splits[0]]
    for split in splits[1:]:
        assert found[split][0] == pytest.approx(metrics, rel=1e-5, abs=1e-9)
        assert largest_difference(found[split][1], gradients) < _TOLERANCE


def test_in_warmup_the_head_alone_has_a_gradient_and_the_peak_rate() -> None:
    config = settings(f"{ACTOR}.optim.lr=1e-3", f"{ACTOR}.optim.lr_warmup_steps=4")
    batch, actor = prepared(config)
    _, values, module = padded_forward(actor, batch)
    (_COEF * two_term_loss(torch.zeros_like(values), values, batch, "ppo")[1]).backward()
    update_value_head(batch, actor, config, step=1)
    expected = {f"value_head.{name}": p.grad for name, p in module["value_head"].named_parameters()}
    assert largest_difference(actor.gradients[0], expected) < _TOLERANCE
    assert (actor.rates, actor.lr) == ([1e-3], 1e-3 / 4)


def test_the_head_is_in_float32_on_a_model_in_bfloat16() -> None:
    model = tiny_model("llama", torch.bfloat16, scale=1.0)
    both = Policy(model, scalar_head(model))
    assert both.value_head is not None
    assert both.value_head.weight.dtype == both.values(GroupBatch.from_groups(random_groups(0), scored=False)).dtype
    assert both.value_head.weight.dtype == torch.float32


def checkpoint_tensors(folder: Path, step: int) -> dict[str, Tensor]:
    tensors = load_checkpoint(folder / "checkpoints" / f"global_step_{step}").tensors
    return {f"{entry}/{name}": tensor for entry in tensors for name, tensor in tensors[entry].items()}


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("timing", "perf/"))} for line in lines]


def test_warmup_trains_the_head_and_leaves_the_model_to_the_bit(
    run_overrides: Overrides, tiny_model_folder: Path, tmp_path: Path
) -> None:
    steps = ("trainer.total_training_steps=3", "trainer.critic_warmup=2", "trainer.save_freq=1", "trainer.save_hf=true")
    schedule = (f"{ACTOR}.optim.lr_scheduler_type=linear", f"{ACTOR}.optim.weight_decay=0.5")
    run = train(load_config(overrides=run_overrides(*SHARED, *steps, *schedule)))
    assert isinstance(run.critic, SharedValueHead)
    assert "critic" not in run.parts  # no second model
    first = load_file(tiny_model_folder / "model.safetensors")
    saved = [checkpoint_tensors(tmp_path / "run", step) for step in (1, 2, 3)]
    for step in (0, 1):
        assert all(torch.equal(saved[step][f"actor/{name}"], weight) for name, weight in first.items())
        assert {name for name in saved[step] if name.startswith("actor_optim/exp_avg/")} == {
            "actor_optim/exp_avg/value_head.weight",
            "actor_optim/exp_avg/value_head.bias",
        }
    assert not torch.equal(saved[2]["actor/model.embed_tokens.weight"], first["model.embed_tokens.weight"])
    heads = [each["value_head/weight"] for each in saved]
    assert 0 < float(heads[0].abs().max()) <= 1.01e-3 * 2  # one or two steps of Adam from zero, at the actor's rate
    assert not torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[1], heads[2])
    logged = metrics_of(tmp_path / "run")
    assert [step["actor/lr"] for step in logged] == [1e-3, 1e-3, 1e-3]
    assert run.actor.schedule.last_epoch == 1  # of the warmup the schedule counts nothing
    assert ["actor/pg_loss" in step for step in logged] == [False, False, True]
    watched = {f"critic/{name}" for name in ("vf_loss", "vf_clipfrac", "vf_explained_var", "vpred_mean", "values/mean")}
    assert all(watched <= step.keys() for step in logged)
    assert logged[0]["critic/values/max"] == logged[0]["critic/values/min"] == 0  # the head starts at zero
    assert logged[1]["critic/values/max"] > logged[1]["critic/values/min"]
    exported = load_file(tmp_path / "run" / "huggingface" / "model.safetensors")
    assert exported.keys() == first.keys()
    assert all(torch.equal(exported[name], saved[2][f"actor/{name}"]) for name in exported)


@pytest.mark.parametrize("stop", [1, 2, 3])  # in the warmup, at its end, after it
def test_resume_is_bit_exact(stop: int, run_overrides: Overrides, tmp_path: Path) -> None:
    updates = (f"{ACTOR}.ppo_epochs=2", f"{ACTOR}.shuffle=true", "trainer.critic_warmup=2")
    for name, ends in (("whole", [4]), ("parts", [stop, 4])):
        for end in ends:
            ending = (f"trainer.total_training_steps={end}", f"trainer.default_local_dir={tmp_path / name}")
            train(load_config(overrides=run_overrides(*SHARED, *updates, *ending)))
    whole, parts = (checkpoint_tensors(tmp_path / name, 4) for name in ("whole", "parts"))
    assert {name.partition("/")[0] for name in whole} == {"actor", "actor_optim", "value_head", "rng"}
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_a_single_update_takes_its_values_from_the_pass_before_it(run_overrides: Overrides, tmp_path: Path) -> None:
    single = (f"{ACTOR}.ppo_mini_batch_size=4", "trainer.total_training_steps=1")
    train(load_config(overrides=run_overrides(*SHARED, *single)))
    logged = json.loads((tmp_path / "run" / "metrics.jsonl").read_text(encoding="utf-8"))
    assert logged["timing_s/old_log_prob"] > 0
    assert not {"timing_s/values", "timing_s/update_critic", "critic/lr"} & logged.keys()
    assert logged["actor/ppo_kl"] == pytest.approx(0, abs=1e-6)


def test_a_checkpoint_of_the_other_kind_is_refused(run_overrides: Overrides, tmp_path: Path) -> None:
    without = tuple(text for text in SHARED if "shared" not in text)
    again = "trainer.resume_mode=disable"
    for first, then, holds, now in ((without, SHARED, "no", "true"), (SHARED, without, "a", "false")):
        train(load_config(overrides=run_overrides(*first, again, "trainer.total_training_steps=1")))
        with pytest.raises(CheckpointError) as caught:
            train(load_config(overrides=run_overrides(*then)))
        place = tmp_path / "run" / "checkpoints" / "global_step_1"
        assert names(caught, place, f"{holds} value head", f"critic.shared_backbone={now}", again)


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (["critic.enable=true"], ["discriminator (GAD)", "take it out", "algorithm.adv_estimator=gae"]),
        (["algorithm.adv_estimator=gae", "critic.model.path=other"], ["critic.model.path=other", "take one"]),
    ],
)
def test_what_cannot_share(overrides: list[str], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        require_supported(load_config(overrides=["critic.shared_backbone=true", *overrides]))
    assert names(caught, "critic.shared_backbone=true", *parts)


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"critic\.value_loss_coef=0.* is too small: set it above 0"):
        settings("critic.value_loss_coef=0")


NO_CRITIC = "no effect without a critic (algorithm.adv_estimator=gae trains one)"


@pytest.mark.parametrize(
    ("overrides", "notice"),
    [
        (
            [*SHARED, "critic.optim.lr=1e-4", "critic.ppo_epochs=2", "critic.cliprange_value=0.2"],
            "critic.optim.lr, critic.ppo_epochs: no effect with critic.shared_backbone=true, whose value head is "
            "updated with the actor: set the same under actor_rollout_ref.actor, or take it out",
        ),
        ([*SHARED, "critic.value_loss_coef=1"], None),
        (
            [SHARED[0], SHARED[1], "critic.value_loss_coef=1"],
            "critic.value_loss_coef: no effect without critic.shared_backbone=true: set that, or take it out",
        ),
        (["critic.shared_backbone=true"], f"critic.shared_backbone: {NO_CRITIC}"),
    ],
)
def test_what_has_no_effect_is_said_once(overrides: list[str], notice: str | None) -> None:
    config = load_config(overrides=[*overrides, "actor_rollout_ref.rollout.n=8"])
    require_supported(config)
    assert [text for text in notices(config) if "critic" in text] == ([notice] if notice else [])
