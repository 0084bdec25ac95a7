"""The section `gad` of a verl configuration, and what the rest of the configuration must be for it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from omegaconf import OmegaConf

from gspo.trainer.gad.schedule import Stages

__all__ = ["GadSettings", "check_config", "stages_of"]


@dataclass(frozen=True)
class GadSettings:
    """The keys of `gad`; the discriminator's are those of `gspo.algorithms.compute_discriminator_loss`.

    Attributes:
        warmup_epochs: epochs of cross-entropy on the teacher's text before all else; the discriminator learns too.
        warmup_steps: its length in steps, instead of warmup_epochs.
        discriminator_weight: what the score counts in the reward, next to the reward function's 1.
        teacher_key: the column of the teacher's text.
        temperature: of the discriminator's loss.
        margin: of the discriminator's loss.
        score_l2: of the discriminator's loss.
        label_smoothing: of the discriminator's loss.
    """

    warmup_epochs: int = 0
    warmup_steps: int | None = None
    discriminator_weight: float = 1.0
    teacher_key: str = "teacher_response"
    temperature: float = 1.0
    margin: float = 0.0
    score_l2: float = 0.0
    label_smoothing: float = 0.0

    @classmethod
    def of(cls, config: Any) -> GadSettings:
        """The section of a whole configuration; its defaults where there is none.

        Raises:
            ValueError: a key that is none, or a value out of range.
        """
        section = dict(config.get("gad") or {})
        known = [field.name for field in fields(cls)]
        unknown = [name for name in section if name not in known]
        if unknown:
            raise ValueError(f"gad.{unknown[0]} is no key of this plugin; the keys of gad are {', '.join(known)}")
        settings = cls(**section)
        settings._check()
        return settings

    @property
    def loss(self) -> dict[str, float]:
        """The keyword arguments of the discriminator's loss."""
        names = ("temperature", "margin", "score_l2", "label_smoothing")
        return {name: getattr(self, name) for name in names}

    def _check(self) -> None:
        bounds = {
            "warmup_epochs": (self.warmup_epochs >= 0, "0 or more"),
            "warmup_steps": (self.warmup_steps is None or self.warmup_steps >= 0, "0 or more, or null"),
            "discriminator_weight": (self.discriminator_weight > 0, "positive"),
            "temperature": (self.temperature > 0, "positive"),
            "score_l2": (self.score_l2 >= 0, "0 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 0.5, "in [0, 0.5)"),
        }
        for name, (holds, wanted) in bounds.items():
            if not holds:
                raise ValueError(f"gad.{name} must be {wanted}, got {getattr(self, name)}")


def stages_of(settings: GadSettings, critic_warmup: int, steps_per_epoch: int) -> Stages:
    """The steps of the warmup, then `critic_warmup` steps of the discriminator alone, then the adversarial ones."""
    warmup = settings.warmup_steps
    if warmup is None:
        warmup = settings.warmup_epochs * steps_per_epoch
    return Stages(warmup, critic_warmup)


def check_config(config: Any) -> GadSettings:
    """The settings of a configuration that can run GAD.

    Raises:
        ValueError: names the key that stands in the way, and what to set.
    """
    settings = GadSettings.of(config)
    actor, model = config.actor_rollout_ref.actor, config.actor_rollout_ref.model
    estimator = str(config.algorithm.adv_estimator)
    if OmegaConf.is_missing(model, "path") or not model.path:
        raise ValueError("actor_rollout_ref.model.path is not set: name the student's folder, or its hub name")
    if not OmegaConf.select(config, "trainer.use_v1", default=True):
        raise ValueError("trainer.use_v1=false chooses verl's old trainer, which knows no trainer_mode: set it to true")
    if not config.critic.enable:
        raise ValueError("critic.enable must be true for trainer.v1.trainer_mode=gad: the critic is the discriminator")
    if estimator == "gae":
        raise ValueError("algorithm.adv_estimator=gae needs a value critic, and GAD's critic is a discriminator: grpo")
    if (config.algorithm.get("filter_groups") or {}).get("enable", False):
        raise ValueError(
            "algorithm.filter_groups drops groups by the reward before the discriminator's score is in it: set "
            "algorithm.filter_groups.enable=false"
        )
    rank = max(model.get("lora_rank", 0), (model.get("lora") or {}).get("rank", 0))
    has_adapter = rank > 0 or model.get("lora_adapter_path") is not None
    needs_reference = actor.use_kl_loss or config.algorithm.use_kl_in_reward
    has_warmup = bool(settings.warmup_epochs if settings.warmup_steps is None else settings.warmup_steps)
    if has_warmup and needs_reference and has_adapter:
        raise ValueError(
            "with an adapter verl's reference is the model without it, which a warmup moves away from: set "
            "actor_rollout_ref.actor.use_kl_loss=false, or gad.warmup_epochs=0 and warm up in a run of its own"
        )
    if has_warmup and needs_reference and not str(actor.strategy).startswith("fsdp"):
        raise ValueError(
            f"the reference is the student after its warmup, which is taken under fsdp and fsdp2 only, not under "
            f"actor_rollout_ref.actor.strategy={actor.strategy}: set actor_rollout_ref.actor.use_kl_loss=false, or "
            "gad.warmup_epochs=0 and warm up in a run of its own"
        )
    return settings
