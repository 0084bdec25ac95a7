"""What a run says of its configuration before it starts."""

from __future__ import annotations

import pytest
from messages import names

from gspo.config import (
    ConfigError,
    load_config,
    notices,
    require_honoured,
    require_keys,
    require_supported,
    supervised_notices,
)
from gspo.methods import LOSSES

ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
ADAPTIVE = ["algorithm.kl_ctrl.type=adaptive", "algorithm.use_kl_in_reward=true"]
UNCLIPPED = next(name for name, loss in LOSSES.items() if loss.clip is None)
QUIET = [f"{ACTOR}.policy_loss=gspo", f"{ROLLOUT}.n=8"]


def test_a_sound_configuration_says_nothing() -> None:
    assert notices(load_config(overrides=QUIET)) == []
    assert notices(load_config(overrides=[*QUIET, *ADAPTIVE])) == []


@pytest.mark.parametrize("loss", [name for name, row in LOSSES.items() if row.clip is not None])
def test_a_loss_with_its_own_range_is_told_nothing_of_it(loss: str) -> None:
    """Nor with one somewhat wider or narrower."""
    low, high = LOSSES[loss].clip or (0.0, 0.0)
    for factor in (0.5, 1.0, 2.0):
        sides = [f"{ACTOR}.clip_ratio_low={min(1.0, factor * low)}", f"{ACTOR}.clip_ratio_high={factor * high}"]
        said = notices(load_config(overrides=[*QUIET[1:], f"{ACTOR}.policy_loss={loss}", *sides]))
        assert [line for line in said if "clip range" in line] == []


def test_a_top_k_that_keeps_every_token_has_no_effect() -> None:
    config = load_config(overrides=[*QUIET, f"{ROLLOUT}.top_k=300"])
    assert notices(config, vocabulary=300) == [
        f"{ROLLOUT}.top_k=300 has no effect: the model has 300 tokens, and all of them are kept. Set a smaller one, or "
        "take it out"
    ]
    assert notices(config, vocabulary=301) == notices(config)
    assert notices(config)[0].startswith(f"{ROLLOUT}.top_k=300 samples from a part of the policy's distribution")


def test_supervised_training_names_the_keys_that_it_does_not_use() -> None:
    used = ["data.answer_key=solution", f"{ACTOR}.optim.lr=1e-4", "trainer.total_epochs=2"]
    assert supervised_notices(load_config(overrides=used)) == []
    unused = [f"{ACTOR}.ppo_epochs=4", f"{ACTOR}.ppo_mini_batch_size=2", "trainer.val_only=true"]
    assert supervised_notices(load_config(overrides=[*used, *unused])) == [
        f"{ACTOR}.ppo_epochs, {ACTOR}.ppo_mini_batch_size, trainer.val_only: gspo sft does not use them; one training "
        "step is one optimizer step on data.train_batch_size prompts"
    ]
    (small,) = supervised_notices(load_config(overrides=[*used, "actor_rollout_ref.model.dtype=bfloat16"]))
    assert small.startswith(
        "actor_rollout_ref.model.dtype=bfloat16 keeps 8 bits of a weight, and most updates of lr=0.0001"
    )
    verl = [f"{ROLLOUT}.n=8", f"{ROLLOUT}.mode=async"]
    assert supervised_notices(load_config(overrides=verl)) == [
        f"key {ROLLOUT}.mode has no effect here: the local engine samples on the trainer's own weights and has no such "
        "setting",
        f"{ROLLOUT}.n: gspo sft does not use it; one training step is one optimizer step on data.train_batch_size "
        "prompts",
    ]


@pytest.mark.parametrize(
    ("overrides", "notice"),
    [
        (
            [f"{ACTOR}.clip_ratio=0.2"],
            "clip range low=0.2, high=0.2 with policy_loss=gspo practically never clips: a sequence's ratio stays "
            f"close to 1. Leave {ACTOR}.clip_ratio* out for the paper's 0.0003 / 0.0004",
        ),
        (
            [f"{ACTOR}.clip_ratio_high=0.2"],
            "clip range high=0.2 with policy_loss=gspo practically never clips: a sequence's ratio stays "
            f"close to 1. Leave {ACTOR}.clip_ratio* out for the paper's 0.0003 / 0.0004",
        ),
        (
            [f"{ACTOR}.loss_agg_mode=token-mean"],
            f"{ACTOR}.loss_agg_mode=token-mean weighs a response by its length, which gspo is made to avoid: leave it "
            "out for seq-mean-token-mean",
        ),
        (
            [f"{ACTOR}.policy_loss=vanilla", f"{ACTOR}.clip_ratio=3e-4"],
            "clip range 0.0003 / 0.0003 with policy_loss=vanilla clips almost every token: it is made for sequence "
            f"ratios. Set {ACTOR}.clip_ratio=0.2, or policy_loss=gspo",
        ),
        (
            [f"{ACTOR}.clip_ratio=1e-6"],
            "clip range 1e-06 / 1e-06 with policy_loss=gspo clips almost every response: it is far below 0.0003 / "
            f"0.0004. Leave {ACTOR}.clip_ratio* out for those",
        ),
        (
            [f"{ACTOR}.policy_loss=vanilla", f"{ACTOR}.clip_ratio_high=3"],
            "clip range 0.2 / 3 with policy_loss=vanilla practically never clips: it is far above 0.2 / 0.2. Leave "
            f"{ACTOR}.clip_ratio* out for those",
        ),
        (
            [f"{ACTOR}.policy_loss={UNCLIPPED}", f"{ACTOR}.clip_ratio=0.2"],
            f"{ACTOR}.clip_ratio* has no effect with policy_loss={UNCLIPPED}, which does not clip: take it out",
        ),
        (
            [f"{ACTOR}.clip_ratio=1e-3", f"{ACTOR}.clip_ratio_low=3e-4", f"{ACTOR}.clip_ratio_high=4e-4"],
            f"{ACTOR}.clip_ratio=0.001 has no effect with clip_ratio_low=0.0003 and clip_ratio_high=0.0004: set "
            "those, or take them out",
        ),
        (
            ["data.train_batch_size=64"],
            f"one optimizer step per rollout ({ACTOR}.ppo_mini_batch_size = data.train_batch_size = 64, ppo_epochs=1): "
            f"every ratio is 1 and no clip is active. Set {ACTOR}.ppo_mini_batch_size=16 for four, as in "
            "GSPO's paper",
        ),
        (
            [f"{ACTOR}.use_dynamic_bsz=true", f"{ACTOR}.ppo_micro_batch_size_per_gpu=8"],
            f"{ACTOR}.ppo_micro_batch_size_per_gpu=8 has no effect with use_dynamic_bsz=true: take one of them out",
        ),
        (
            [f"{ROLLOUT}.n=1"],
            f"{ROLLOUT}.n=1 leaves grpo without a baseline: a response is compared with the others of its prompt, and "
            f"alone its reward is its advantage. Set {ROLLOUT}.n=8",
        ),
        ([f"{ROLLOUT}.n=2"], f"{ROLLOUT}.n=2 makes a noisy baseline: set {ROLLOUT}.n=8 or 16"),
        (
            ["trainer.critic_warmup=10", "critic.enable=false"],
            "trainer.critic_warmup=10 has no effect without a critic: take it out",
        ),
        (
            ["algorithm.kl_ctrl.type=adaptive", f"{ACTOR}.use_kl_loss=true"],
            "algorithm.kl_ctrl.type=adaptive has no effect: it moves the weight of the divergence in the reward. Set "
            f"algorithm.use_kl_in_reward=true, or take it out (the weight in the loss, {ACTOR}.kl_loss_coef, is "
            "constant)",
        ),
        (
            ["algorithm.use_kl_in_reward=true", f"{ACTOR}.use_kl_loss=true"],
            f"algorithm.use_kl_in_reward and {ACTOR}.use_kl_loss both hold the policy to the reference: one of them is "
            "usual",
        ),
        (
            [f"{ROLLOUT}.top_p=0.9", f"{ROLLOUT}.top_k=50"],
            f"{ROLLOUT}.top_p=0.9, top_k=50 samples from a part of the policy's distribution, while losses take its "
            "whole: the update is slightly off-policy. Take it out unless samples degrade without it",
        ),
        (
            [f"{ROLLOUT}.val_kwargs.temperature=0.6"],
            f"{ROLLOUT}.val_kwargs.temperature=0.6 has no effect without {ROLLOUT}.val_kwargs.do_sample=true: set that "
            "to sample",
        ),
        (
            [f"{ROLLOUT}.val_kwargs.n=8"],
            f"{ROLLOUT}.val_kwargs.n=8 greedy responses are all alike: set {ROLLOUT}.val_kwargs.do_sample=true and "
            f"{ROLLOUT}.val_kwargs.temperature=1.0",
        ),
        (
            [f"{ROLLOUT}.gpu_memory_utilization=0.5"],
            f"key {ROLLOUT}.gpu_memory_utilization has no effect here: the local engine samples on the trainer's own "
            "weights and has no such setting",
        ),
        (
            [f"{ACTOR}.fsdp_config.param_offload=True"],
            f"key {ACTOR}.fsdp_config.param_offload has no effect here: each process holds the whole model, and passes "
            "are split by tokens, which never changes an update",
        ),
        (
            [f"{ACTOR}.fsdp_config.mixed_precision=null"],
            f"key {ACTOR}.fsdp_config.mixed_precision has no effect here: set actor_rollout_ref.model.mixed_precision: "
            "products in bfloat16 over float32 weights",
        ),
        (
            [f"{ACTOR}.fsdp_config.dtype=bfloat16"],
            f"key {ACTOR}.fsdp_config.dtype has no effect here: set actor_rollout_ref.model.dtype for the weights, and "
            "actor_rollout_ref.model.mixed_precision for products in bfloat16 over float32 ones",
        ),
        (
            ["actor_rollout_ref.model.dtype=bfloat16"],
            "actor_rollout_ref.model.dtype=bfloat16 keeps 8 bits of a weight, and most updates of lr=1e-06 are rounded "
            "away: take it out, and set actor_rollout_ref.model.mixed_precision=true for products in bfloat16 over "
            "float32 weights",
        ),
        (
            ["trainer.resume_from_path=old"],
            "trainer.resume_from_path=old has no effect with trainer.resume_mode=auto: set resume_mode=resume_path, or "
            "take it out",
        ),
    ],
)
def test_the_one_notice(overrides: list[str], notice: str) -> None:
    given = {override.partition("=")[0]: override for override in [*QUIET, *overrides]}
    assert notices(load_config(overrides=list(given.values()))) == [notice]


def test_what_is_not_set() -> None:
    config = load_config(overrides=["data.train_files=a.parquet"])
    require_keys(config, "data.train_files")
    with pytest.raises(ConfigError) as caught:
        require_keys(config, "data.train_files", "actor_rollout_ref.model.path")
    assert names(caught, "actor_rollout_ref.model.path is not set", "actor_rollout_ref.model.path=Qwen/Qwen3-0.6B")


GAD_IS_ON = (
    "{} with algorithm.adv_estimator=grpo: a discriminator is trained on the teacher's text and its score is the "
    "reward (GAD). critic.enable=false trains on rewards alone"
)
NO_WARMUP = (
    "no stage of GAD's warmup: the student starts as it is, which the paper finds to cost quality. Set "
    "trainer.gad_warmup_epochs=1 unless the student has learned the teacher's text already"
)


@pytest.mark.parametrize(
    "override",
    [
        "critic.enable=true",
        "critic.model.path=a",
        "trainer.critic_warmup=1",
        "trainer.gad_warmup_epochs=1",
        "trainer.gad_warmup_steps=1",
    ],
)
def test_what_switches_gad_on_says_so(override: str) -> None:
    config = load_config(overrides=[*QUIET, override])
    require_supported(config)
    assert (config.wants_discriminator, config.uses_value_critic, config.critic.enable) == (True, False, True)
    key = override.partition("=")[0]
    assert notices(config) == [GAD_IS_ON.format(key), *([] if "gad_warmup" in key else [NO_WARMUP])]
    off = load_config(overrides=[*QUIET, override, "critic.enable=false"])
    require_supported(off)
    assert not off.wants_discriminator


@pytest.mark.parametrize(
    ("override", "notice"),
    [
        (
            "critic.cliprange_value=0.2",
            "critic.cliprange_value: no effect with a discriminator, which has no values to clip: take it out",
        ),
        (
            f"{ROLLOUT}.stop=[x]",
            f"{ROLLOUT}.stop: the student's responses then end without the end token that the teacher's have, which "
            "tells the discriminator who wrote them: take it out",
        ),
        (
            f"{ROLLOUT}.ignore_eos=true",
            f"{ROLLOUT}.ignore_eos: the student's responses then end without the end token that the teacher's have, "
            "which tells the discriminator who wrote them: take it out",
        ),
        (
            "critic.discriminator.freeze_after_warmup=true",
            "critic.discriminator.freeze_after_warmup=true: the discriminator does not follow the student in the "
            "adversarial stage, which then learns what misleads it. Take it out unless that is what is to be seen",
        ),
    ],
)
def test_the_one_notice_of_gad(override: str, notice: str) -> None:
    found = notices(load_config(overrides=[*QUIET, "trainer.gad_warmup_epochs=1", override]))
    assert found == [GAD_IS_ON.format("trainer.gad_warmup_epochs"), notice]


@pytest.mark.parametrize(
    "override",
    [
        "critic.discriminator.margin=1",
        "critic.discriminator.freeze_after_warmup=true",
        "reward.discriminator_weight=2",
        "trainer.gad_warmup_lr=1",
    ],
)
def test_keys_of_gad_without_it(override: str) -> None:
    assert notices(load_config(overrides=[*QUIET, override])) == [
        f"{override.partition('=')[0]}: no effect without a discriminator (critic.model.path with grpo trains one)"
    ]


def test_two_lengths_of_the_warmup_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["trainer.gad_warmup_epochs=1", "trainer.gad_warmup_steps=5"])
    assert str(caught.value).startswith(
        "trainer.gad_warmup_epochs and trainer.gad_warmup_steps are two lengths of one stage: set one of them"
    )


def test_smoothing_is_below_a_half() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(overrides=["critic.discriminator.label_smoothing=0.5"])
    assert str(caught.value).startswith(
        "critic.discriminator.label_smoothing=0.5 would teach the opposite: set it below 0.5"
    )


@pytest.mark.parametrize(
    ("overrides", "key", "named"),
    [
        (["reward.overlong_buffer.enable=true"], "len", ["enable=true needs a length"]),
        (
            ["reward.overlong_buffer.enable=true", "reward.overlong_buffer.len=512"],
            "len",
            ["len=512 must be below data.max_response_length=512"],
        ),
    ],
)
def test_a_penalty_for_length_that_has_no_room(overrides: list[str], key: str, named: list[str]) -> None:
    for require in (require_honoured, require_supported):
        with pytest.raises(ConfigError) as caught:
            require(load_config(overrides=overrides))
        assert caught.value.key == f"reward.overlong_buffer.{key}"
        assert names(caught, *named)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["algorithm.adv_estimator=gae"], ["algorithm.adv_estimator=gae"]),
        (["algorithm.adv_estimator=reinforce_plus_plus", "algorithm.gamma=0.9"], ["reinforce_plus_plus"]),
        (["algorithm.rollout_correction.rollout_is=token"], ["rollout_is=token"]),
        (["algorithm.adv_estimator=reinforce_plus_plus"], []),
        (["algorithm.rollout_correction.rollout_is=sequence"], []),
    ],
)
def test_a_sequence_loss_says_that_it_averages_over_a_response(overrides: list[str], named: list[str]) -> None:
    for loss in ("gspo", "gspo_token"):
        config = load_config(overrides=[f"{ACTOR}.policy_loss={loss}", "actor_rollout_ref.rollout.n=8", *overrides])
        said = [line for line in notices(config) if "gspo_token keeps" in line]
        assert len(said) == (loss == "gspo" and bool(named))
        assert all(part in line for line in said for part in named)
