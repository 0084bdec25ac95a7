"""What shows a discriminator's faults: one that is frozen, and pairs in which both responses are a teacher's."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from models_helpers import tiny_model

from gspo.algorithms.stats import to_floats
from gspo.checkpoint import load_checkpoint
from gspo.config import load_config
from gspo.groups import Group, Prompt, Response
from gspo.models import Ends, Scorer
from gspo.observe import PhaseClock
from gspo.trainer import train
from gspo.trainer.batching import Cut
from gspo.trainer.gad.discriminator import Discriminator
from gspo.trainer.gad.pairs import teachers_by_prompt
from gspo.trainer.gad.schedule import Stages
from gspo.trainer.trained import TrainedScorer
from gspo.world import Alone

Overrides = Callable[..., list[str]]
GAD = (
    "critic.enable=true",
    "critic.optim.lr=1e-3",
    "data.teacher_key=answer",
    "trainer.gad_warmup_steps=1",
    "trainer.critic_warmup=1",
    "custom_reward_function.path=null",
)


def said(*tokens: int) -> Response:
    return Response(list(tokens), [0.0] * len(tokens), "", "stop")


def row(number: int, prompt: tuple[int, ...], teacher: Response | None) -> Group:
    return Group(Prompt(f"f:{number}", prompt, "", ""), [said(5)], teacher)


def plain_decoder(critic: TrainedScorer) -> Any:
    """The discriminator's decoder with its own attention, for sequences that stand alone."""
    decoder: Any = copy.deepcopy(critic.scorer.model)["decoder"]
    decoder.config._attn_implementation = "eager"
    return decoder


GROUPS = [
    row(0, (1, 2), said(7, 8)),
    row(1, (3, 4), said(9)),  # the only one of its prompt
    row(2, (1, 2), said(10, 11, 12)),
    row(3, (5,), said(6)),
    row(4, (5,), said(6)),  # says the same
    row(5, (5,), said(13, 6)),
    row(6, (1, 2), None),
    row(7, (1, 2), said(14)),
    row(8, (3, 4), said()),  # an empty one
]


def test_rows_of_one_prompt_come_together() -> None:
    found = teachers_by_prompt(GROUPS)
    assert [(group.prompt.token_ids, [r.token_ids for r in group.responses]) for group in found] == [
        ((1, 2), [[7, 8], [10, 11, 12], [14]]),
        ((5,), [[6], [13, 6]]),
    ]


@pytest.mark.parametrize("micro_batch", ["null", "1"])
def test_one_teacher_against_another(micro_batch: str) -> None:
    config = load_config(overrides=["critic.enable=true", f"critic.ppo_micro_batch_size_per_gpu={micro_batch}"])
    torch.manual_seed(5)
    critic = TrainedScorer(Scorer(tiny_model("llama"), head_std=0.3), config.critic.optim, total_steps=10)
    discriminator = Discriminator(
        critic,
        config.critic.discriminator,
        weight=1.0,
        cut=Cut.of_critic(config.critic, config.trainer.seed),
        stages=Stages(0, 0),
        tokenizer=cast("Any", None),
        ends=Ends((), -1, ()),
        max_response_length=8,
        clock=PhaseClock(),
        world=Alone(),
    )
    model: Any = critic.module
    decoder = plain_decoder(critic)
    pairs = []
    for prompt, texts in (([1, 2], ([7, 8], [10, 11, 12], [14])), ([5], ([6], [13, 6]))):
        scores = []
        for text in texts:
            with torch.no_grad():
                ids = torch.tensor([[*prompt, *text]])
                hidden = decoder(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
                scores.append(float(hidden @ model["head"].weight[0] + model["head"].bias[0]))
        pairs += list(combinations(scores, 2))
    found = to_floats(discriminator.teacher_control(GROUPS, prefix="v"))
    assert found == {
        "v/teacher_teacher_acc": sum(first > second for first, second in pairs) / 4,
        "v/teacher_teacher_gap": pytest.approx(sum(abs(first - second) for first, second in pairs) / 4, abs=2e-5),
    }
    assert discriminator.teacher_control(GROUPS[:2], prefix="v") == {}


def test_a_frozen_discriminator_is_measured_and_stays(run_overrides: Overrides, tmp_path: Path) -> None:
    further = (
        "trainer.total_training_steps=3",
        "trainer.save_freq=1",
        "critic.discriminator.freeze_after_warmup=true",
    )
    train(load_config(overrides=run_overrides(*GAD, *further)))
    saved = [load_checkpoint(tmp_path / "run" / "checkpoints" / f"global_step_{step}").tensors for step in range(1, 5)]

    def moved(step: int, entry: str) -> bool:
        return any(not torch.equal(saved[step - 1][entry][name], saved[step][entry][name]) for name in saved[0][entry])

    assert [moved(step, "critic") for step in (1, 2, 3)] == [True, False, False]
    assert [moved(step, "actor") for step in (1, 2, 3)] == [False, True, True]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["training/gad_stage"] for line in lines] == [0, 1, 2, 2]
    assert all(0 <= line["critic/d_acc"] <= 1 for line in lines)
    assert ["critic/grad_norm" in line for line in lines] == ["critic/lr" in line for line in lines]
    assert ["critic/lr" in line for line in lines] == [True, True, False, False]


def test_rows_of_several_teachers_are_compared_in_validation(run_overrides: Overrides, tmp_path: Path) -> None:
    rows = [{"prompt": "say a", "data_source": "tiny", "answer": text} for text in ("a", "aa")]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in rows), encoding="utf-8")
    train(load_config(overrides=run_overrides(*GAD, f"data.val_files={path}", "trainer.total_training_steps=1")))
    first, *_, last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for line in (first, last):
        assert line["val-aux/gad/teacher_teacher_acc"] in (0, 1)  # one pair
        assert line["val-aux/gad/teacher_teacher_gap"] > 0
