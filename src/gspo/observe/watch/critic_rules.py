"""Warnings about GAD's discriminator."""

from __future__ import annotations

from gspo.observe.watch.facts import Facts
from gspo.observe.watch.history import History
from gspo.observe.watch.rule import Rule, figure

__all__ = ["CRITIC_RULES"]

_ADVERSARIAL = 2.0  # training/gad_stage
_SATURATED, _SATURATED_STEPS = 0.97, 5
_CHANCE, _CHANCE_STEPS = 0.55, 10
_LEARNED = 0.9  # of the loss at chance: below, the discriminator has told pairs apart at some time


def _accuracy(history: History, steps: int) -> float | None:
    """Mean accuracy over the last steps, where all of them are of the adversarial stage."""
    stages, shares = history.values("training/gad_stage", steps), history.values("critic/d_acc", steps)
    return sum(shares) / len(shares) if shares and stages and min(stages) == _ADVERSARIAL else None


def _saturated(history: History, facts: Facts) -> str:
    del facts
    share = _accuracy(history, _SATURATED_STEPS)
    if share is None or share < _SATURATED:
        return ""
    return (
        f"the discriminator tells {share:.0%} of the pairs of {history.span(_SATURATED_STEPS)} apart (critic/d_acc), "
        "and its score no longer says which response is better: warm the student up longer "
        "(trainer.gad_warmup_epochs), lower critic.optim.lr, or raise critic.discriminator.temperature"
    )


def _at_chance(history: History, facts: Facts) -> str:
    share = _accuracy(history, _CHANCE_STEPS)
    lowest = history.lowest.get("critic/d_loss", 0.0)
    if share is None or share > _CHANCE or lowest < _LEARNED * facts.chance_loss:
        return ""
    return (
        f"the discriminator has told nothing apart so far (critic/d_acc {figure(share)}, critic/d_loss never below "
        f"{figure(lowest)}), and the student follows its noise: raise trainer.critic_warmup or critic.optim.lr, and "
        "look at the teacher's texts"
    )


CRITIC_RULES = (
    Rule(
        "saturated discriminator",
        "`critic/d_acc` above 0.97 on average over 5 steps of the adversarial stage",
        ("trainer.gad_warmup_epochs", "critic.optim.lr", "critic.discriminator.temperature"),
        _saturated,
    ),
    Rule(
        "discriminator at chance",
        "`critic/d_acc` at most 0.55 over 10 steps of the adversarial stage, and `critic/d_loss` never below 0.9 of "
        "its value at chance",
        ("trainer.critic_warmup", "critic.optim.lr"),
        _at_chance,
    ),
)
