"""GAD in the trainer: stages, rewards from before the update, the discriminator's update, mixed rewards, resuming."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from messages import names
from models_helpers import random_groups, tiny_model
from torch import Tensor

import gspo.trainer.preparation as preparation
from gspo.algorithms.stats import to_floats
from gspo.checkpoint import CheckpointError, load_checkpoint
from gspo.config import Config, load_config
from gspo.data import DataError
from gspo.groups import Group, GroupBatch, Outcome, Prompt, Response
from gspo.models import Ends, Scorer, load_tokenizer
from gspo.models.scratch import make_model_folder
from gspo.observe import PhaseClock
from gspo.trainer import opened, train
from gspo.trainer.assembly import Kind
from gspo.trainer.batching import Cut
from gspo.trainer.gad.discriminator import Discriminator
from gspo.trainer.gad.schedule import Stage, Stages
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.preparation import HeldReference
from gspo.trainer.supervised import add_teachers, answer_response
from gspo.trainer.trained import TrainedScorer
from gspo.world import Alone

Overrides = Callable[..., list[str]]
GAD = (
    "critic.enable=true",
    "critic.optim.lr=1e-3",
    "data.teacher_key=answer",
    "trainer.gad_warmup_steps=2",
    "trainer.critic_warmup=1",
    "actor_rollout_ref.actor.use_kl_loss=true",
)
NO_FUNCTION = ("custom_reward_function.path=null",)
_TOLERANCE = 2e-5


class Killed(Exception):
    """Stands for a kill."""


def settings(*overrides: str) -> Config:
    return load_config(overrides=["critic.enable=true", "data.train_batch_size=64", *overrides])


def taught_groups(seed: int = 0, num_groups: int = 4) -> list[Group]:
    """Groups of different sizes with teachers of different lengths; an empty response among them."""
    groups = random_groups(seed, num_groups)
    for number, group in enumerate(groups):
        tokens = [(3 * number + i) % 61 for i in range(2 + 3 * number)]
        group.teacher = Response(tokens, [0.0] * len(tokens), "", "stop")
    return groups


def tiny_discriminator(config: Config) -> Discriminator:
    torch.manual_seed(5)
    return Discriminator(
        TrainedScorer(Scorer(tiny_model("llama"), head_std=0.3), config.critic.optim, total_steps=10),
        config.critic.discriminator,
        weight=config.reward.discriminator_weight,
        cut=Cut.of_critic(config.critic, config.trainer.seed),
        stages=Stages(0, 0),
        tokenizer=cast("Any", None),  # no prompt here brings a text to be read
        ends=Ends((), -1, ()),
        max_response_length=config.data.max_response_length,
        clock=PhaseClock(),
        world=Alone(),
    )


def update(discriminator: Discriminator, groups: list[Group]) -> dict[str, float]:
    return to_floats(discriminator.update(GroupBatch.from_groups(groups), groups, step=1))


def lone_score(model: Any, group: Group, response: Response) -> Tensor:
    """The head's number at the last token of a sequence on its own, by the decoder's own attention."""
    ids = torch.tensor([[*group.prompt.token_ids, *response.token_ids]])
    hidden = model["decoder"](input_ids=ids, use_cache=False).last_hidden_state[0, -1]
    return hidden @ model["head"].weight[0] + model["head"].bias[0]


def plain_copy(discriminator: Discriminator) -> Any:
    model: Any = copy.deepcopy(discriminator.model.module)
    model["decoder"].config._attn_implementation = "eager"
    model.zero_grad()
    return model


_OPTIONS = ((1.0, 0.0, 0.0, 0.0), (2.0, 0.5, 0.1, 0.1))
_NAMES = ("temperature", "margin", "score_l2", "label_smoothing")


@pytest.mark.parametrize("options", _OPTIONS)
def test_the_update_against_separate_forwards(
    options: tuple[float, float, float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(*(f"critic.discriminator.{n}={v}" for n, v in zip(_NAMES, options, strict=True)))
    groups = taught_groups()
    discriminator = tiny_discriminator(config)
    discriminator.score(groups)
    model = plain_copy(discriminator)
    monkeypatch.setattr(discriminator.model, "step", dict)
    found = update(discriminator, groups)

    temperature, margin, score_l2, smoothing = options
    losses, right, students, teachers = [], [], [], []
    for group in groups:
        for response in group.responses:
            if not response.token_ids:
                continue
            assert group.teacher is not None
            s, t = lone_score(model, group, response), lone_score(model, group, group.teacher)
            chance = torch.sigmoid((t - s - margin) / temperature)
            losses.append(
                -(1 - smoothing) * chance.log() - smoothing * (1 - chance).log() + score_l2 * (t * t + s * s) / 2
            )
            right.append(float(t > s))
            students.append(s.item())
            teachers.append(t.item())
    loss = torch.stack(losses).mean()
    loss.backward()
    count = len(losses)
    assert found["critic/d_loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert found["critic/d_acc"] == pytest.approx(sum(right) / count)
    assert found["critic/student_value_mean"] == pytest.approx(sum(students) / count, abs=_TOLERANCE)
    assert found["critic/teacher_value_mean"] == pytest.approx(sum(teachers) / count, abs=_TOLERANCE)
    assert found["critic/margin"] == pytest.approx((sum(teachers) - sum(students)) / count, abs=2 * _TOLERANCE)
    ours = {name: p.grad for name, p in discriminator.model.module.named_parameters() if p.grad is not None}
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        scale = max(1e-3, float(grad.abs().max()))
        assert float((ours[name] - grad).abs().max()) / scale < 10 * _TOLERANCE, name


def test_any_micro_batch_split_gives_the_same_update(monkeypatch: pytest.MonkeyPatch) -> None:
    def captured(*overrides: str) -> tuple[dict[str, float], dict[str, Tensor]]:
        config, groups = settings(*overrides), taught_groups(3)
        discriminator = tiny_discriminator(config)
        discriminator.score(groups)
        monkeypatch.setattr(discriminator.model, "step", dict)
        stats = update(discriminator, groups)
        grads = {name: p.grad for name, p in discriminator.model.module.named_parameters() if p.grad is not None}
        return stats | {"reward": sum(r.reward or 0.0 for g in groups for r in g.responses)}, grads

    whole, expected = captured()
    for split in ("ppo_max_token_len_per_gpu=20", "ppo_micro_batch_size_per_gpu=1", "ppo_micro_batch_size_per_gpu=3"):
        metrics, found = captured(f"critic.{split}")
        assert metrics == pytest.approx(whole, rel=1e-5, abs=1e-7)
        for name, grad in expected.items():
            scale = max(1e-3, float(grad.abs().max()))
            assert float((found[name] - grad).abs().max()) / scale < _TOLERANCE, name


def test_pair_figures_are_measured_and_not_learned() -> None:
    config, groups = settings(), taught_groups()
    discriminator = tiny_discriminator(config)
    module = discriminator.model.module
    before = copy.deepcopy(module.state_dict())
    held_out = to_floats(discriminator.pair_figures(groups))
    assert all(torch.equal(weight, before[name]) for name, weight in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())
    discriminator.score(groups)
    updated = update(discriminator, groups)
    assert held_out == pytest.approx({name: updated[name] for name in held_out}, abs=1e-6)
    assert set(held_out) == {
        f"critic/{name}" for name in ("d_loss", "d_acc", "student_value_mean", "teacher_value_mean", "margin")
    }


def test_the_reward_is_the_lone_score_and_adds_up() -> None:
    config = settings("reward.discriminator_weight=0.5")
    groups = taught_groups(num_groups=2)
    discriminator = tiny_discriminator(config)
    responses = [response for group in groups for response in group.responses]
    responses[0].outcome = Outcome(2.0, {"acc": 1.0}, "x", terms={"math": (4.0, 0.5)})
    responses[1].outcome = Outcome(abstained="why")
    stats = to_floats(discriminator.score(groups))
    model = plain_copy(discriminator)
    with torch.no_grad():
        scores = [float(lone_score(model, group, r)) for group in groups for r in group.responses]
    rewards = [response.reward for response in responses]
    assert rewards[0] == pytest.approx(2.0 + 0.5 * scores[0], abs=_TOLERANCE)
    assert rewards[1] is None
    assert rewards[2:] == pytest.approx([0.5 * score for score in scores[2:]], abs=_TOLERANCE)
    mixed = responses[0].outcome
    assert mixed is not None
    assert (mixed.extras, mixed.answer, mixed.terms["math"]) == ({"acc": 1.0}, "x", (4.0, 0.5))
    assert mixed.terms["discriminator"] == (0.5, pytest.approx(scores[0], abs=_TOLERANCE))
    assert stats == {"reward/discriminator/mean": pytest.approx(sum(scores) / len(scores), abs=_TOLERANCE)}
    assert discriminator.score([]) == {}


def stages_of(config: Config) -> Stages:
    return Kind.of(config).stages(config.trainer, batches_per_epoch=5)


def test_stages_follow_one_another() -> None:
    config = load_config(overrides=[*GAD[:1], "trainer.gad_warmup_epochs=2", "trainer.critic_warmup=3"])
    stages = stages_of(config)
    found = [stages.at(step) for step in range(1, 16)]
    assert found == [Stage.WARMUP] * 10 + [Stage.DISCRIMINATOR] * 3 + [Stage.ADVERSARIAL] * 2
    assert stages.summary(20) == (
        "10 steps warmup on the teacher's text, then 3 steps discriminator alone, then 7 steps adversarial"
    )
    four = load_config(overrides=[*GAD[:1], "trainer.gad_warmup_steps=4"])
    assert stages_of(four) == Stages.of(four.trainer, batches_per_epoch=5) == Stages(4, 0)
    off = load_config(overrides=["critic.enable=false", "trainer.gad_warmup_epochs=2", "trainer.critic_warmup=3"])
    assert stages_of(off) == Stages(0, 0)
    value_critic = load_config(
        overrides=["algorithm.adv_estimator=gae", "trainer.gad_warmup_epochs=2", "trainer.critic_warmup=3"]
    )
    assert stages_of(value_critic) == Stages(0, 3)


def test_the_first_step_of_a_stage_is_said() -> None:
    def said(stages: Stages, **kind: bool) -> dict[int, str]:
        lines = {step: stages.opening(step, 7, **kind) for step in range(1, 8)}
        return {step: line for step, line in lines.items() if line}

    three = said(Stages(2, 3))
    assert list(three) == [1, 3, 6]
    assert names(three[1], "steps 1 to 2", "warmup")
    assert names(three[3], "steps 3 to 5", "discriminator learns alone")
    assert names(three[6], "steps 6 to 7", "adversarial")
    assert list(said(Stages(0, 3))) == [1, 4]
    assert list(said(Stages(2, 0))) == [1, 3]
    assert said(Stages(0, 0)) == {}
    assert names(said(Stages(2, 9))[3], "steps 3 to 7")  # the run ends before the stage
    value_critic = said(Stages(0, 3), distils=False)
    assert list(value_critic) == [1, 4]
    assert names(value_critic[1], "critic learns alone")
    assert names(value_critic[4], "steps 4 to 7", "policy learns")


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith(("timing", "perf/"))} for line in lines]


def tensors_of(folder: Path, step: int) -> dict[str, Tensor]:
    tensors = load_checkpoint(folder / "checkpoints" / f"global_step_{step}").tensors
    return {f"{entry}/{name}": tensor for entry in tensors for name, tensor in tensors[entry].items()}


def test_each_stage_trains_what_it_says(
    run_overrides: Overrides, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = ("trainer.total_training_steps=3", "trainer.save_freq=1", f"data.val_files={tiny_data / 'test.jsonl'}")
    rates = ("trainer.gad_warmup_lr=3e-3", "actor_rollout_ref.actor.optim.lr_scheduler_type=linear")
    run = train(load_config(overrides=run_overrides(*GAD, *NO_FUNCTION, *ends, *rates, "trainer.logger=[console]")))
    folder = tmp_path / "run"
    saved = {step: tensors_of(folder, step) for step in range(1, 6)}

    def moved(step: int, entry: str) -> bool:
        return any(
            not torch.equal(saved[step - 1][name], tensor)
            for name, tensor in saved[step].items()
            if name.startswith(f"{entry}/")
        )

    assert [moved(step, "actor") for step in range(2, 6)] == [True, False, True, True]
    assert [moved(step, "critic") for step in range(2, 6)] == [True] * 4
    start, *steps = metrics_of(folder)
    assert [step["training/gad_stage"] for step in steps] == [0, 0, 1, 2, 2]
    assert [step.get("actor/lr") for step in steps] == [3e-3, 3e-3, None, 1e-3, 5e-4]
    assert ["train/loss" in step for step in steps] == [True, True, False, False, False]
    assert ["actor/pg_loss" in step for step in steps] == [False, False, False, True, True]
    assert steps[1]["train/loss"] < steps[0]["train/loss"]
    # The reference is the student after its warmup, and is kept.
    assert isinstance(run.reference, HeldReference)
    assert run.reference.step == 2
    for name, weight in run.reference.policy.model.state_dict().items():
        assert torch.equal(weight, saved[2][f"actor/{name}"])
        assert torch.equal(weight, saved[5][f"reference/{name}"])
    assert load_checkpoint(folder / "checkpoints" / "global_step_3").state["stage"] == {
        "name": "discriminator",
        "warmup_steps": 2,
    }
    held_out = {name for name in start if name.startswith("val-aux/gad/")}
    held_out -= {f"val-aux/gad/ngram_{n}_f1" for n in range(2, 7)}  # only where a text is that long
    assert held_out == {
        f"val-aux/gad/{name}"
        for name in (
            *("d_loss", "d_acc", "student_value_mean", "teacher_value_mean", "margin"),
            *("length_acc", "eos_acc", "response_length", "teacher_length", "rouge_l", "ngram_1_f1"),
        )
    }
    assert held_out <= steps[-1].keys()
    assert start["val-aux/gad/teacher_length"] == pytest.approx(3)  # one, two and three letters, and the end token
    said = capsys.readouterr().out
    assert "critic: discriminator (GAD) on" in said
    assert "stages: 2 steps warmup on the teacher's text, then 1 step discriminator alone, then 2 steps" in said


def test_a_step_scores_before_it_updates(run_overrides: Overrides, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, list[float]]] = []

    def watch(name: str, owner: Any, attribute: str) -> None:
        original = getattr(owner, attribute)

        def call(*arguments: Any, **named: Any) -> Any:
            if name == "score":
                critics[:] = [arguments[0]]
                groups.extend(arguments[1])
            weights = [float(p.detach().double().sum()) for p in critics[0].model.module.parameters()]
            calls.append((name, weights))
            return original(*arguments, **named)

        monkeypatch.setattr(owner, attribute, call)

    critics: list[Discriminator] = []
    groups: list[Group] = []
    order = ["score", "advantages", "update of the discriminator", "update of the policy"]
    watch(order[0], Discriminator, "score")
    watch(order[1], preparation, "add_advantages")
    watch(order[2], Discriminator, "update")
    watch(order[3], PolicyUpdate, "update")
    no_warmup = [text for text in GAD if not text.startswith("trainer.")]
    run = train(load_config(overrides=run_overrides(*no_warmup, *NO_FUNCTION, "trainer.total_training_steps=2")))
    assert [name for name, _ in calls] == order * 2
    scored, advantages, updating, after = (weights for _, weights in calls[:4])
    assert scored == advantages == updating != after
    assert calls[4][1] == after  # the next step's rewards are those of the updated discriminator
    assert run.critic is critics[0]
    responses = [r for group in groups[:4] for r in group.responses]
    stale = [r.reward for r in responses]
    for response in responses:
        response.outcome = None
    critics[0].score(groups[:4])
    fresh = [r.reward for r in responses]
    assert stale != pytest.approx(fresh, abs=1e-3)


@pytest.mark.parametrize("killed_in", [2, 3, 4, 5])
def test_killed_and_resumed_in_every_stage_is_never_killed(
    killed_in: int, run_overrides: Overrides, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    further = (
        "trainer.total_training_steps=3",
        "trainer.save_freq=1",
        "trainer.test_freq=2",
        "critic.shuffle=true",
        "critic.optim.lr_scheduler_type=cosine",
        "actor_rollout_ref.actor.optim.lr_scheduler_type=linear",
        f"data.val_files={tiny_data / 'test.jsonl'}",
    )

    def run(folder: Path) -> None:
        train(load_config(overrides=run_overrides(*GAD, *NO_FUNCTION, *further, f"trainer.default_local_dir={folder}")))

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(whole)
    original = Discriminator.update

    def kill(self: Discriminator, batch: GroupBatch, groups: list[Group], step: int) -> Any:
        stats = original(self, batch, groups, step)
        if step == killed_in:
            raise Killed
        return stats

    with monkeypatch.context() as patch:
        patch.setattr(Discriminator, "update", kill)
        with pytest.raises(Killed):
            run(parts)
    run(parts)
    assert metrics_of(parts) == metrics_of(whole)
    ours, theirs = (load_checkpoint(folder / "checkpoints" / "global_step_5") for folder in (parts, whole))
    assert ours.state == theirs.state
    assert set(theirs.tensors) == {"actor", "actor_optim", "critic", "critic_optim", "reference", "rng"}
    mine, expected = tensors_of(parts, 5), tensors_of(whole, 5)
    assert mine.keys() == expected.keys()
    assert all(torch.equal(mine[name], tensor) for name, tensor in expected.items())


def test_another_length_of_the_warmup_is_refused(run_overrides: Overrides, tmp_path: Path) -> None:
    train(load_config(overrides=run_overrides(*GAD, *NO_FUNCTION, "trainer.total_training_steps=1")))
    other = [text.replace("gad_warmup_steps=2", "gad_warmup_steps=1") for text in GAD]
    with pytest.raises(CheckpointError) as caught:
        train(load_config(overrides=run_overrides(*other, *NO_FUNCTION)))
    place = f"{tmp_path}/run/checkpoints/global_step_3"
    assert names(caught, place, "set trainer.gad_warmup_steps=2", "trainer.resume_mode=disable")


@pytest.mark.parametrize("estimator", ["grpo", "gdpo"])
def test_a_function_beside_the_discriminator(estimator: str, run_overrides: Overrides, tmp_path: Path) -> None:
    weights = ("reward.discriminator_weight=2", "reward.functions=[{name: custom, weight: 3}]")
    train(load_config(overrides=run_overrides(*GAD, *weights, f"algorithm.adv_estimator={estimator}")))
    for step in metrics_of(tmp_path / "run"):
        expected = 2 * step["reward/discriminator/mean"] + 3 * step["reward/custom/mean"]
        assert step["critic/score/mean"] == pytest.approx(expected, abs=1e-5)
        assert "reward/acc" in step


def test_the_warmup_needs_no_reward(run_overrides: Overrides, tmp_path: Path) -> None:
    """A function that judges few responses: the student learns every teacher's text all the same, as without one."""
    file = tmp_path / "abstains.py"
    text = "def compute_score(solution_str, **_):\n    return 1.0 if len(solution_str) % 3 == 0 else None\n"
    file.write_text(text, encoding="utf-8")
    silent = ("reward.functions=[{name: custom}]", f"custom_reward_function.path={file}")
    ends = []
    for name, further in (("silent", silent), ("plain", NO_FUNCTION)):
        folder = f"trainer.default_local_dir={tmp_path / name}"
        kept = [text for text in run_overrides(*GAD, *further, folder) if "total_training_steps" not in text]
        run = opened(load_config(overrides=[*kept, "trainer.total_training_steps=1"]))
        with run as ready:
            for step in (1, 2):  # the warmup
                ready.take_step(step)
            ends.append([parameter.detach().clone() for parameter in ready.actor.module.parameters()])
    for ours, theirs in zip(*ends, strict=True):
        assert torch.equal(ours, theirs)


def test_accuracy_is_measured_in_validation_and_rewarded_nowhere(
    run_overrides: Overrides, tiny_data: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (tiny_data / "test.jsonl").read_text().splitlines()]
    rows[0]["data_source"] = rows[1]["data_source"] = "openai/gsm8k"
    rows[1]["reward_model"] = None
    del rows[2]["answer"]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    train(load_config(overrides=run_overrides(*GAD, *NO_FUNCTION, f"data.val_files={held_out}")))
    start, *steps = metrics_of(tmp_path / "run")
    assert start["val-core/openai/gsm8k/acc/mean@1"] == 0
    assert start["val-aux/openai/gsm8k/unjudged"] == 0.5  # a row without a ground truth
    assert start["val-aux/tiny/unjudged"] == 1  # no function is known for the source
    assert start["val-aux/gad/teacher_length"] == 2.5  # the third row has no teacher
    assert not any(name.startswith("reward/") for step in steps for name in step if "discriminator" not in name)
    assert all(step["critic/score/mean"] == pytest.approx(step["reward/discriminator/mean"]) for step in steps)


def test_held_out_rows_without_a_teacher_are_said(
    run_overrides: Overrides, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"prompt": "a", "data_source": "tiny"}) + "\n", encoding="utf-8")
    quick = (f"data.val_files={held_out}", "trainer.val_only=true", "trainer.logger=[console]")
    train(load_config(overrides=run_overrides(*GAD, *NO_FUNCTION, *quick)))
    assert "data.val_files have no text in answer: the discriminator is not measured" in capsys.readouterr().out


def test_a_missing_teacher_names_the_row(run_overrides: Overrides, tiny_data: Path, tmp_path: Path) -> None:
    rows = (tiny_data / "train.jsonl").read_text().splitlines()
    rows[4] = json.dumps({**json.loads(rows[4]), "answer": ""})
    path = tmp_path / "gap.jsonl"
    path.write_text("\n".join(rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"gap\.jsonl.*row 4.*answer is empty: write the text, or remove the row"):
        train(load_config(overrides=run_overrides(*GAD, f"data.train_files={path}")))


def test_a_discriminator_of_its_own_model(run_overrides: Overrides, tmp_path: Path) -> None:
    other = make_model_folder(tmp_path / "other", hidden_size=16, num_layers=1, num_heads=2, max_positions=128)
    small = ("data.teacher_key=answer", "trainer.total_training_steps=1", f"critic.model.path={other}")
    run = train(load_config(overrides=run_overrides(*small, *NO_FUNCTION)))
    assert isinstance(run.critic, Discriminator)
    head: Any = run.critic.model.scorer.model["head"]
    assert head.weight.shape == (1, 16)
    assert head.weight.abs().max() > 0
    assert metrics_of(tmp_path / "run")[0]["training/gad_stage"] == 2
    assert math.isfinite(metrics_of(tmp_path / "run")[0]["critic/grad_norm"])


def test_teachers_are_cut_and_ended_like_students(tiny_model_folder: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model_folder))
    end = tokenizer.eos_token_id
    whole = answer_response("abc", tokenizer, 8)
    assert (whole.token_ids[-1], len(whole), whole.finish_reason) == (end, 4, "stop")
    cut = answer_response("abc", tokenizer, 3)
    assert (end in cut.token_ids, len(cut), cut.finish_reason) == (False, 3, "length")
    groups = [Group(Prompt("f:0", (1,), "", "", teacher_response=text), []) for text in ("abc", None)]
    add_teachers(groups, tokenizer, 8)
    assert groups[0].teacher == whole
    assert groups[1].teacher is None
