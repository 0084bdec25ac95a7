"""What a run says about its configuration before it starts: settings that do nothing, or are unlikely to work."""

from __future__ import annotations

from collections.abc import Iterator

from gspo.config.needs import DISCRIMINATOR
from gspo.config.obstacles import obstacles
from gspo.config.schema import Config
from gspo.config.usage import keys_that_turn_on, unused
from gspo.config.verl import without_effect
from gspo.methods import ADVANTAGES

__all__ = ["notices", "supervised_notices"]

# A sequence ratio is a geometric mean over hundreds of tokens and stays within about a hundredth of 1.
_WIDE_FOR_SEQUENCES = 0.01
# One token's ratio leaves this range at almost every token once the weights have moved at all.
_NARROW_FOR_TOKENS = 0.01
# Against a loss's own range: below this part of it nearly everything is clipped, above so many times next to nothing.
_FAR_BELOW, _FAR_ABOVE = 0.04, 10.0
_SMALL_GROUP = 4


def notices(config: Config, vocabulary: int | None = None) -> list[str]:
    """What is to be said once, at the start: settings that work against each other or do nothing, each with its fix.

    Args:
        config: the configuration.
        vocabulary: tokens that the model can give, where it is loaded.
    """
    return [
        *config.notes,
        *_about_the_weights(config),
        *_about_the_clip(config),
        *_about_token_advantages(config),
        *_about_the_updates(config),
        *_about_groups(config),
        *_about_the_divergence(config),
        *_about_the_critic(config),
        *unused(config, "train"),
        *_about_sampling(config, vocabulary),
        *_about_the_resumption(config),
        *without_effect(config.user_set),
        *(f"a run does not start: {line}" for _, line in obstacles(config)),
    ]


def supervised_notices(config: Config) -> list[str]:
    """The same of `gspo sft`: weights that will not move, and the user's keys that it does not use."""
    return [
        *config.notes,
        *_about_the_weights(config),
        *_about_the_resumption(config),
        *without_effect(config.user_set),
        *unused(config, "sft"),
    ]


def _about_the_weights(config: Config) -> Iterator[str]:
    """About weights in a type that small updates do not reach."""
    model, lr = config.actor_rollout_ref.model, config.actor_rollout_ref.actor.optim.lr
    if model.dtype == "bfloat16":
        yield (
            f"{model.key('dtype')}=bfloat16 keeps 8 bits of a weight, and most updates of lr={lr:g} are rounded away: "
            f"take it out, and set {model.key('mixed_precision')}=true for products in bfloat16 over float32 weights"
        )


def _about_the_clip(config: Config) -> Iterator[str]:
    """About a clip range or an aggregation that is made for another kind of loss, or does nothing."""
    actor, loss, key = config.actor_rollout_ref.actor, config.loss_facts, "actor_rollout_ref.actor"
    low, high, both = actor.clip_ratio_low, actor.clip_ratio_high, actor.clip_ratio
    if loss.sequence_clip and actor.loss_agg_mode == "token-mean" != loss.aggregation:
        yield (
            f"{key}.loss_agg_mode=token-mean weighs a response by its length, which {loss.name} is made to avoid: "
            f"leave it out for {loss.aggregation}"
        )
    if loss.clip is None:
        if (low, high, both) != (None, None, None):
            yield f"{key}.clip_ratio* has no effect with policy_loss={loss.name}, which does not clip: take it out"
        return
    if low is None or high is None:
        return
    if loss.sequence_clip and (low, high) != loss.clip and max(low, high) > _WIDE_FOR_SEQUENCES:
        wide = [f"{side}={value:g}" for side, value in (("low", low), ("high", high)) if value > _WIDE_FOR_SEQUENCES]
        whose = "the paper's" if loss.source else "its own"
        yield (
            f"clip range {', '.join(wide)} with policy_loss={loss.name} practically never clips: a sequence's "
            f"ratio stays close to 1. Leave {key}.clip_ratio* out for {whose} {loss.clip[0]:g} / {loss.clip[1]:g}"
        )
    if not loss.sequence_clip and (low, high) != loss.clip and max(low, high) < _NARROW_FOR_TOKENS:
        even = loss.clip[0] == loss.clip[1]
        remedy = f"Set {key}.clip_ratio={loss.clip[0]:g}, or" if even else f"Leave {key}.clip_ratio* out, or set"
        instead = "policy_loss=gspo" if loss.source else f"sequence_clip=True where {loss.name} is registered"
        yield (
            f"clip range {low:g} / {high:g} with policy_loss={loss.name} clips almost every token: it is made for "
            f"sequence ratios. {remedy} {instead}"
        )
    own_low, own_high = loss.clip
    if loss.sequence_clip and low < _FAR_BELOW * own_low and high < _FAR_BELOW * own_high:
        yield (
            f"clip range {low:g} / {high:g} with policy_loss={loss.name} clips almost every response: it is far below "
            f"{own_low:g} / {own_high:g}. Leave {key}.clip_ratio* out for those"
        )
    if low > 1 and loss.name != "geo_mean":  # whose range is of the log-ratio
        yield (
            f"clip range low={low:g} with policy_loss={loss.name} has no effect: no ratio is below 0, so that "
            f"1 and more clip nothing there. Set {key}.clip_ratio_low below 1 to clip"
        )
    elif not loss.sequence_clip and (low > _FAR_ABOVE * own_low or high > _FAR_ABOVE * own_high):
        yield (
            f"clip range {low:g} / {high:g} with policy_loss={loss.name} practically never clips: it is far above "
            f"{own_low:g} / {own_high:g}. Leave {key}.clip_ratio* out for those"
        )
    if both is not None and both not in (low, high):
        yield (
            f"{key}.clip_ratio={both:g} has no effect with clip_ratio_low={low:g} and clip_ratio_high={high:g}: "
            "set those, or take them out"
        )


def _about_the_resumption(config: Config) -> Iterator[str]:
    """About a checkpoint that is named and not read."""
    trainer = config.trainer
    if trainer.resume_from_path and trainer.resume_mode != "resume_path":
        yield (
            f"{trainer.key('resume_from_path')}={trainer.resume_from_path} has no effect with "
            f"{trainer.key('resume_mode')}={trainer.resume_mode}: set resume_mode=resume_path, or take it out"
        )


def _about_token_advantages(config: Config) -> Iterator[str]:
    """About a sequence loss with what varies from token to token: each token then gets the mean of its response."""
    algorithm, loss, key = config.algorithm, config.loss_facts, config.actor.policy_loss.key("loss_mode")
    if not loss.token_form:
        return
    varies = []
    shaped = config.uses_value_critic or algorithm.use_kl_in_reward or algorithm.gamma != 1
    if config.advantage_facts.token_level and shaped:
        varies.append(f"{algorithm.key('adv_estimator')}={algorithm.adv_estimator}")
    if algorithm.rollout_correction.rollout_is == "token":
        varies.append(f"{algorithm.rollout_correction.key('rollout_is')}=token")
    if varies:
        yield (
            f"{' and '.join(varies)} with {key}={loss.name}: one ratio is used for a whole response, so that every "
            f"token learns from the mean over it. {key}={loss.token_form} keeps each token's own"
        )


def _about_the_updates(config: Config) -> Iterator[str]:
    """About optimizer steps and micro-batches."""
    actor, key = config.actor_rollout_ref.actor, "actor_rollout_ref.actor"
    if actor.ppo_mini_batch_size == config.data.train_batch_size and actor.ppo_epochs == 1:
        yield (
            f"one optimizer step per rollout ({key}.ppo_mini_batch_size = data.train_batch_size = "
            f"{actor.ppo_mini_batch_size}, ppo_epochs=1): every ratio is 1 and no clip is active. Set "
            f"{key}.ppo_mini_batch_size={max(1, config.data.train_batch_size // 4)} for four, as in GSPO's paper"
        )
    if actor.use_dynamic_bsz and actor.ppo_micro_batch_size_per_gpu is not None:
        yield (
            f"{key}.ppo_micro_batch_size_per_gpu={actor.ppo_micro_batch_size_per_gpu} has no effect with "
            "use_dynamic_bsz=true: take one of them out"
        )


def _about_groups(config: Config) -> Iterator[str]:
    algorithm, n = config.algorithm, config.actor_rollout_ref.rollout.n
    key = "actor_rollout_ref.rollout.n"
    if algorithm.adv_estimator in ADVANTAGES and config.advantage_facts.compares_groups:
        if n == 1:
            yield (
                f"{key}=1 leaves {algorithm.adv_estimator} without a baseline: a response is compared with the others "
                f"of its prompt, and alone its reward is its advantage. Set {key}=8"
            )
        elif n < _SMALL_GROUP:
            yield f"{key}={n} makes a noisy baseline: set {key}=8 or 16"
    sync = config.actor_rollout_ref.ref.sync_steps
    if sync is not None and not config.uses_reference:
        yield (
            f"actor_rollout_ref.ref.sync_steps={sync} has no effect without a reference model: set "
            "actor_rollout_ref.actor.use_kl_loss=true, or take it out"
        )
    if algorithm.use_kl_in_reward and config.actor_rollout_ref.actor.use_kl_loss:
        yield (
            "algorithm.use_kl_in_reward and actor_rollout_ref.actor.use_kl_loss both hold the policy to the reference: "
            "one of them is usual"
        )


def _about_the_divergence(config: Config) -> Iterator[str]:
    """About the weight of a divergence that nothing is weighed with."""
    algorithm = config.algorithm
    if algorithm.kl_ctrl.type == "adaptive" and not algorithm.use_kl_in_reward:
        yield (
            "algorithm.kl_ctrl.type=adaptive has no effect: it moves the weight of the divergence in the reward. Set "
            "algorithm.use_kl_in_reward=true, or take it out (the weight in the loss, "
            "actor_rollout_ref.actor.kl_loss_coef, is constant)"
        )


def _about_the_critic(config: Config) -> Iterator[str]:
    trainer = config.trainer
    if config.wants_discriminator:
        yield from _about_the_discriminator(config)
        return
    if not config.critic.enable and trainer.critic_warmup > 0:
        yield f"trainer.critic_warmup={trainer.critic_warmup} has no effect without a critic: take it out"


def _about_the_discriminator(config: Config) -> Iterator[str]:
    """What works against a discriminator, or does nothing with one."""
    trainer, rollout = config.trainer, config.actor_rollout_ref.rollout
    asked = [key for key in keys_that_turn_on(DISCRIMINATOR) if key in config.user_set] or ["critic.enable"]
    yield (
        f"{', '.join(asked)} with algorithm.adv_estimator={config.algorithm.adv_estimator}: a discriminator is trained "
        "on the teacher's text and its score is the reward (GAD). critic.enable=false trains on rewards alone"
    )
    if not trainer.gad_warmup:
        yield (
            "no stage of GAD's warmup: the student starts as it is, which the paper finds to cost quality. Set "
            "trainer.gad_warmup_epochs=1 unless the student has learned the teacher's text already"
        )
    if config.critic.discriminator.freeze_after_warmup:
        yield (
            "critic.discriminator.freeze_after_warmup=true: the discriminator does not follow the student in the "
            "adversarial stage, which then learns what misleads it. Take it out unless that is what is to be seen"
        )
        if not (trainer.gad_warmup or trainer.critic_warmup):
            yield (
                "critic.discriminator.freeze_after_warmup=true without trainer.critic_warmup or a warmup stage: the "
                "discriminator stays as it was drawn and its scores are noise. Set trainer.critic_warmup=10"
            )
    if rollout.ignore_eos or rollout.stop:
        key = "ignore_eos" if rollout.ignore_eos else "stop"
        yield (
            f"actor_rollout_ref.rollout.{key}: the student's responses then end without the end token that the "
            "teacher's have, which tells the discriminator who wrote them: take it out"
        )


def _about_sampling(config: Config, vocabulary: int | None) -> Iterator[str]:
    rollout = config.actor_rollout_ref.rollout
    keeps_all = vocabulary is not None and rollout.top_k >= vocabulary
    if keeps_all:
        yield (
            f"actor_rollout_ref.rollout.top_k={rollout.top_k} has no effect: the model has {vocabulary} tokens, and "
            "all of them are kept. Set a smaller one, or take it out"
        )
    cuts = {"top_p": rollout.top_p < 1, "top_k": rollout.top_k > 0 and not keeps_all, "min_p": rollout.min_p > 0}
    if active := [f"{name}={getattr(rollout, name):g}" for name, cut in cuts.items() if cut]:
        yield (
            f"actor_rollout_ref.rollout.{', '.join(active)} samples from a part of the policy's distribution, while "
            "losses take its whole: the update is slightly off-policy. Take it out unless samples degrade without it"
        )
    val, key = rollout.val_kwargs, "actor_rollout_ref.rollout.val_kwargs"
    if not val.do_sample and val.temperature > 0:
        yield f"{key}.temperature={val.temperature:g} has no effect without {key}.do_sample=true: set that to sample"
    if not val.do_sample and val.n > 1:
        yield f"{key}.n={val.n} greedy responses are all alike: set {key}.do_sample=true and {key}.temperature=1.0"
