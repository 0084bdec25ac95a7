"""The parts of a run of reinforcement learning, each made once and handed to those that work with it.

What a run is, is decided here and nowhere else: a new kind of critic, reference or collector is one more object that a
method here chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from gspo.algorithms.kl import AdaptiveKLController, FixedKLController, get_kl_controller
from gspo.checkpoint import Stateful
from gspo.config import Config
from gspo.config.schema import RolloutConfig, TrainerConfig
from gspo.groups import Group
from gspo.methods import ADVANTAGES
from gspo.models import Ends, Policy, Scorer
from gspo.observe import Facts, Watch
from gspo.rewards import RewardManager
from gspo.rewards.combine import SteadyNames
from gspo.rollout import EngineContext, LocalEngine, RolloutEngine, SamplingParams, make_engine
from gspo.trainer.batching import Cut
from gspo.trainer.collector import Collector, FilteringCollector
from gspo.trainer.critics import Critic, NoCritic, Phase, Schedule, Stats, nothing, rest
from gspo.trainer.gad.discriminator import Discriminator
from gspo.trainer.gad.schedule import NoStages, Stages
from gspo.trainer.loop import train_step
from gspo.trainer.old_log_probs import Limits, OldLogProbs
from gspo.trainer.opening import Frame, Given, Ground
from gspo.trainer.policy_update import PolicyUpdate
from gspo.trainer.preparation import HeldReference, NoReference, Preparation, Reference
from gspo.trainer.ratio_noise import RatioNoise
from gspo.trainer.run import JsonState, RandomState, TrainRun
from gspo.trainer.supervised import Imitation
from gspo.trainer.trained import Actor, TrainedScorer
from gspo.trainer.validation import Measure, Validation, accuracy, held_out_pairs
from gspo.trainer.value_critic import SharedValueHead, ValueCritic

__all__ = ["Assembly", "Kind", "Models", "answer_sampling", "training_sampling", "validation_sampling"]


@dataclass(frozen=True)
class Models:
    """The models of a run, in the order in which they are loaded: a head that is drawn at random is drawn last."""

    policy: Policy
    reference: Policy | None
    scorer: Scorer | None


@dataclass(frozen=True)
class Kind:
    """What a run is, asked of the configuration once.

    Attributes:
        distils: the critic is a discriminator (GAD).
        has_values: the critic is PPO's.
        shares: that critic is a head on the actor's model.
        has_reference: the loss or the reward needs a reference model.
    """

    distils: bool
    has_values: bool
    shares: bool
    has_reference: bool

    @classmethod
    def of(cls, config: Config) -> Kind:
        return cls(config.wants_discriminator, config.uses_value_critic, config.shares_backbone, config.uses_reference)

    def stages(self, trainer: TrainerConfig, batches_per_epoch: int) -> Stages:
        """Its warmup and the steps that leave the policy as it is."""
        stages = Stages.of(trainer, batches_per_epoch)
        return stages if self.distils else Stages(0, stages.critic_only if self.has_values else 0)


class Assembly:
    """Puts a run together.

    Args:
        config: the resolved configuration.
        given: objects in place of what it names.
        ground: device, tokenizer and data.
        kind: what the run is.
        stages: its warmup and the steps that leave the policy as it is.
        models: its models, loaded.
        rewards: score responses.
        frame: the folder, and how the run is watched.
        total_steps: the run's last step.
    """

    def __init__(
        self,
        config: Config,
        given: Given,
        ground: Ground,
        kind: Kind,
        stages: Stages,
        models: Models,
        rewards: RewardManager,
        frame: Frame,
        total_steps: int,
    ) -> None:
        self._config, self._given, self._ground = config, given, ground
        self._kind, self._stages, self._models = kind, stages, models
        self._rewards, self._frame, self._total_steps = rewards, frame, total_steps
        self._world, self._clock = given.world, frame.clock
        self._actor_section, self._rollout, self._ref = config.actor, config.rollout, config.ref
        self._cut = Cut.of_actor(config.actor, config.trainer.seed)

    def run(self) -> TrainRun:
        """The run, at its start."""
        frame, ground = self._frame, self._ground
        own = self._given.rewards is not None or self._given.reward_manager is not None
        run = TrainRun(
            kind="train",
            config=self._config,
            folder=frame.folder,
            world=self._world,
            tokenizer=ground.tokenizer,
            actor=self.actor,
            train_data=ground.train_data,
            val_data=ground.val_data,
            sampler=ground.sampler,
            tracker=frame.tracker,
            console=frame.console,
            clock=frame.clock,
            samples=frame.samples,
            total_steps=self._total_steps,
            parts=self._parts(),
            take_step=lambda step: train_step(run, step),
            validate=self._validation(),
            say_once=frame.say_once,
            watch=Watch(Facts.of(self._config, own_rewards=own)),
            opens=lambda step: self._stages.opening(step, self._total_steps, self._kind.distils),
            only_validates=self._config.trainer.val_only,
            callbacks=self._given.callbacks,
            engine=self.engine,
            critic=self.critic,
            reference=self.reference,
            schedule=self._schedule(),
            compares_groups=ADVANTAGES[self._config.algorithm.adv_estimator].compares_groups,
        )
        return run

    @cached_property
    def actor(self) -> Actor:
        """The policy, and its optimizer."""
        steps = self._total_steps - self._stages.num_before_adversarial
        return Actor(self._models.policy, self._actor_section.optim, steps, self._world)

    @cached_property
    def engine(self) -> RolloutEngine:
        """Samples the responses."""
        if self._given.engine is not None:
            return self._given.engine
        seed, max_num_seqs = self._config.trainer.seed, self._rollout.max_num_seqs
        context = EngineContext(self._models.policy, self._ground.tokenizer, seed, max_num_seqs, self._ground.longest)
        return make_engine(self._rollout.name, context)

    @cached_property
    def _scorer(self) -> TrainedScorer | None:
        if self._models.scorer is None:
            return None
        return TrainedScorer(self._models.scorer, self._config.critic.optim, self._total_steps, self._world)

    @cached_property
    def _value_head(self) -> SharedValueHead | None:
        if not self._kind.shares:
            return None
        return SharedValueHead(self.actor, self._config.critic, self._cut, self._clock, self._world)

    @cached_property
    def _discriminator(self) -> Discriminator | None:
        if not self._kind.distils:
            return None
        assert self._scorer is not None
        config = self._config
        return Discriminator(
            self._scorer,
            config.critic.discriminator,
            weight=config.reward.discriminator_weight,
            cut=Cut.of_critic(config.critic, config.trainer.seed),
            stages=self._stages,
            tokenizer=self._ground.tokenizer,
            ends=Ends.of(self._ground.tokenizer, self._models.policy.model),
            max_response_length=config.data.max_response_length,
            clock=self._clock,
            world=self._world,
        )

    @cached_property
    def _value_critic(self) -> ValueCritic | None:
        if self._kind.distils or self._scorer is None:
            return None
        cut = Cut.of_critic(self._config.critic, self._config.trainer.seed)
        return ValueCritic(self._scorer, self._config.critic, cut, self._clock, self._world)

    @cached_property
    def critic(self) -> Critic:
        """What judges the policy's responses next to the rewards."""
        return self._discriminator or self._value_head or self._value_critic or NoCritic()

    @cached_property
    def reference(self) -> Reference:
        """The model that the policy is kept near to."""
        if not self._kind.has_reference:
            return NoReference()
        assert self._models.reference, "loaded where the run has one"
        return HeldReference(
            self._models.reference,
            self._models.policy,
            self._rollout.temperature,
            Cut(self._ref.log_prob_max_token_len_per_gpu),
            self._ref.sync_steps,
            self._stages.warmup,
            self._clock,
            self._world,
        )

    @cached_property
    def _kl_controller(self) -> AdaptiveKLController | FixedKLController:
        return get_kl_controller(self._config.algorithm.kl_ctrl)

    def _collector(self) -> Collector:
        config, frame, rewards = self._config, self._frame, self._rewards

        steady = SteadyNames(rewards.figures(self._ground.train_data.prompts, by_source=not self._kind.distils))

        def score(groups: Sequence[Group]) -> Stats:
            """A discriminator judges alone: the rewards that rows bring are asked in validation only."""
            if not self._kind.distils:
                return steady(rewards.score(groups))
            return steady(rewards.score(groups, by_source=False)) if rewards.configured else {}

        return Collector(
            data=self._ground.train_data,
            sampler=self._ground.sampler,
            engine=self.engine,
            sampling=training_sampling(self._rollout, config.data.max_response_length),
            n=self._rollout.n,
            rewards=_with_notices(score, rewards, frame.say_once),
            critic=self.critic,
            clock=self._clock,
            world=self._world,
            vocabulary=None if isinstance(self.engine, LocalEngine) else self._models.policy.vocabulary_size,
        )

    @cached_property
    def _old_log_probs(self) -> OldLogProbs:
        correction, actor = self._config.algorithm.rollout_correction, self._actor_section
        return OldLogProbs(
            self._models.policy,
            self._rollout.temperature,
            Cut(self._rollout.log_prob_max_token_len_per_gpu),
            self._cut,
            False if correction.active or self._kind.shares else correction.bypass_mode,
            Limits.of(self._config.loss_facts, actor.clip_ratio_low, actor.clip_ratio_high),
            self._frame.console.notice,
            self._world,
        )

    def _preparation(self) -> Preparation:
        algorithm, needs_pass = self._config.algorithm, self._kind.shares
        correction = algorithm.rollout_correction
        return Preparation(
            algorithm,
            old_log_probs=self._old_log_probs,
            always_old=algorithm.use_kl_in_reward or correction.active or needs_pass,
            updates=self._cut,
            reference=self.reference,
            critic=self.critic,
            kl_controller=self._kl_controller,
            clock=self._clock,
            world=self._world,
        )

    def _ratio_noise(self) -> RatioNoise | None:
        actor, loss = self._actor_section, self._config.loss_facts
        if loss.clip is None:
            return None
        return RatioNoise(
            self._models.policy,
            self._rollout.temperature,
            self._cut,
            loss,
            (actor.clip_ratio_low, actor.clip_ratio_high),
            self._stages.num_before_adversarial + 1,
            self._frame.console.notice,
            self._world,
        )

    def _schedule(self) -> Schedule:
        """The phases: GAD's warmup, the critic alone, and what the run is for."""
        config, stages, frame = self._config, self._stages, self._frame
        collector, policy = self._collector(), self._models.policy
        update = PolicyUpdate(
            self.actor,
            self._actor_section,
            self._rollout.temperature,
            self._cut,
            self._clock,
            self._world,
            self._value_head,
            self._ratio_noise(),
            exact_samples=isinstance(self.engine, LocalEngine) and not policy.is_narrow,
        )
        plain = Phase(collector.collect, self._preparation().prepare, update.update)
        last = plain
        if config.algorithm.filter_groups.enable:
            filtering = FilteringCollector(
                collector,
                config.algorithm.filter_groups,
                config.data.train_batch_size,
                self._ground.sampler.batches_per_epoch,
                lambda text: frame.say_once(text, "filter_groups"),
                self._world,
            )
            last = replace(plain, collect=filtering.collect)
        if self._kind.distils:
            lr = self._actor_section.optim.lr if config.trainer.gad_warmup_lr is None else config.trainer.gad_warmup_lr
            imitation = Imitation(self.actor, self._cut, lr, self._clock, self._world)
            warmup = Phase(collector.collect, nothing, imitation.update, needs_rewards=False)
            alone = Phase(collector.collect, nothing, rest, needs_rewards=False)
            return Schedule(last, [(stages.warmup, warmup), (stages.critic_only, alone)])
        head = self._value_head
        return Schedule(
            last, [(stages.critic_only, replace(plain, update_policy=rest if head is None else head.update_alone))]
        )

    def _parts(self) -> dict[str, Stateful]:
        """What a checkpoint holds, in the order in which it is written and read."""
        parts: dict[str, Stateful] = {
            "actor": self.actor,
            "sampler": JsonState("sampler", self._ground.sampler),
            "origin": self._ground.origin,
            "kl_controller": JsonState("kl_controller", self._kl_controller),
            "reference": self.reference,
            "old_log_probs": self._old_log_probs,
            "stages": self._stages if self._kind.distils else NoStages(),
        }
        if self._scorer is not None:
            parts["critic"] = self._scorer
        return parts | {"rng": RandomState(self._frame.console.notice)}

    def _validation(self) -> Validation:
        config, kwargs = self._config, self._rollout.val_kwargs
        measures: list[Measure] = [accuracy(self._rewards)]
        if self._discriminator is not None:
            measures.append(held_out_pairs(self._discriminator, self._frame.say_once, config.data.teacher_key))
        return Validation(
            self._ground.val_data.prompts if self._ground.val_data is not None else (),
            engine=self.engine,
            rewards=self._rewards,
            sampling=validation_sampling(self._rollout, config.data.max_response_length),
            n=kwargs.n,
            batch_size=config.data.val_batch_size,
            measures=measures,
            samples=self._frame.samples,
            num_samples=config.trainer.log_val_generations,
            clock=self._clock,
        )


def _with_notices(
    score: Callable[[Sequence[Group]], Stats], rewards: RewardManager, say_once: Callable[[str, str], None]
) -> Callable[[Sequence[Group]], Stats]:
    """The same scores; the first abstention and the first error of a reward are said."""

    def scored(groups: Sequence[Group]) -> Stats:
        stats = score(groups)
        if float(stats.get("reward/abstained", 0.0)) > 0:
            say_once(
                "a reward abstained (counted in reward/abstained; those responses are left out, samples.jsonl says "
                "why)",
                "abstained",
            )
        if (error := rewards.first_error) is not None:
            say_once(f"a reward failed (counted in reward/errors; those responses are left out): {error}", error)
        return stats

    return scored


def training_sampling(rollout: RolloutConfig, max_tokens: int) -> SamplingParams:
    """How training responses are drawn."""
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        top_k=rollout.top_k or -1,
        min_p=rollout.min_p,
        stop=tuple(rollout.stop),
        ignore_eos=rollout.ignore_eos,
    )


def validation_sampling(rollout: RolloutConfig, max_tokens: int) -> SamplingParams:
    """How validation responses are drawn."""
    kwargs = rollout.val_kwargs
    return answer_sampling(rollout, max_tokens, kwargs.temperature if kwargs.do_sample else 0.0, kwargs.top_p)


def answer_sampling(rollout: RolloutConfig, max_tokens: int, temperature: float, top_p: float = 1.0) -> SamplingParams:
    """How responses to held-out prompts are drawn at a temperature that is chosen elsewhere."""
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=rollout.val_kwargs.top_k or -1,
        stop=tuple(rollout.stop),
        ignore_eos=rollout.ignore_eos,
    )
