"""No section with a bad value exists, however it is made."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from gspo.algorithms import kl_penalty
from gspo.config import Config, ConfigError, load_config
from gspo.config.fields import Section, children, leaves
from gspo.config.schema import ActorConfig, ActorOptimConfig, AlgorithmConfig, RolloutConfig
from gspo.methods import LOSSES

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["actor_rollout_ref.rollout.n=0"], f"{ROLLOUT}.n=0 is too small: set it to 1 or more"),
        ([f"{ROLLOUT}.temperature=0"], f"{ROLLOUT}.temperature=0.0 is too small: set it above 0"),
        ([f"{ROLLOUT}.temperature=nan"], f"{ROLLOUT}.temperature=nan is not a number: set one"),
        ([f"{ROLLOUT}.top_p=1.5"], f"{ROLLOUT}.top_p=1.5 is too large: set it to 1 or less"),
        (
            [f"{ACTOR}.loss_agg_mode=mean"],
            f"{ACTOR}.loss_agg_mode=mean is not one of token-mean, token-sum, seq-mean-token-sum, seq-mean-token-mean, "
            "seq-mean-token-sum-norm",
        ),
        (
            [f"{ACTOR}.optim.betas=[0.9]"],
            f"{ACTOR}.optim.betas=[0.9] must be two numbers of at least 0 and below 1: set [0.9, 0.999]",
        ),
        (
            [f"{ACTOR}.policy_loss=gpso"],
            f"{ACTOR}.policy_loss.loss_mode=gpso is unknown; did you mean gspo? Known: {', '.join(LOSSES)}. "
            "One of your own is found through algorithm.external_modules=[FILE.py]",
        ),
        (
            ["algorithm.adv_estimator=xyz"],
            "algorithm.adv_estimator=xyz is unknown; known: gae, grpo, grpo_vectorized, grpo_passk, gdpo, "
            "rloo, rloo_vectorized, opo, reinforce_plus_plus, reinforce_plus_plus_baseline. One of your own is found "
            "through algorithm.external_modules=[FILE.py]",
        ),
        (
            ["algorithm.adv_estimator=gae", "critic.enable=false"],
            "algorithm.adv_estimator=gae needs a critic: set critic.enable=null, or adv_estimator=grpo",
        ),
        (
            ["algorithm.rollout_correction.rollout_rs=token_k1"],
            "algorithm.rollout_correction.rollout_rs=token_k1 needs algorithm.rollout_correction.rollout_rs_threshold: "
            "set it, say to 2.0",
        ),
        (["data.train_max_samples=0"], "data.train_max_samples=0 leaves no rows: set -1 for all, or 1 or more"),
        (["data.truncation=start"], "data.truncation=start is not one of error, left, right"),
        (["trainer.logger=[stdout]"], "trainer.logger: stdout is not one of console, jsonl, tensorboard, wandb"),
        (["trainer.save_freq=0"], "trainer.save_freq=0 is no number of steps: set 1 or more, or -1"),
        (["trainer.resume_mode=never"], "trainer.resume_mode=never is not one of auto, disable, resume_path"),
        (
            ["trainer.resume_mode=resume_path"],
            "trainer.resume_mode=resume_path needs trainer.resume_from_path: set it to a folder of a checkpoint",
        ),
    ],
)
def test_what_a_bad_value_says(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=overrides)
    assert str(caught.value).partition(" (override")[0] == message


def test_a_section_made_in_python_is_held_to_the_same() -> None:
    with pytest.raises(ConfigError, match=r"actor_rollout_ref\.rollout\.n=0 is too small"):
        RolloutConfig(n=0)
    assert ActorOptimConfig(lr="1e-3").lr == 1e-3  # type: ignore[arg-type]


def sections(kind: type[Section], key: str) -> list[tuple[str, type[Section]]]:
    below = [found for name, child in children(kind).items() for found in sections(child, f"{key}.{name}".strip("."))]
    return [(key, kind), *below]


@pytest.mark.parametrize(("key", "kind"), sections(Config, ""))
def test_every_field_has_its_line_and_every_section_its_place(key: str, kind: type[Section]) -> None:
    assert key == kind.KEY
    for spec in dataclasses.fields(kind):
        if spec.name not in ("user_set", "notes", "refused"):
            assert spec.metadata["line"].endswith("."), f"{key}.{spec.name}"
    assert leaves(kind) or children(kind)


def test_every_estimator_of_a_divergence_is_one_of_the_algorithms() -> None:
    for section, key in ((ActorConfig, "kl_loss_type"), (AlgorithmConfig, "kl_penalty")):
        for name in leaves(section)[key].metadata["choices"]:
            assert kl_penalty(torch.zeros(2), torch.ones(2), name).shape == (2,)
