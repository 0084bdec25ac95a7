"""The healthy range of a metric under what was set: the loss, its clip range, the optimizer steps per rollout."""

from __future__ import annotations

import re

from gspo.methods import SEQUENCE_BAND, TOKEN_BAND, Band
from gspo.observe.report.meanings import MEANINGS
from gspo.observe.report.numbers import exact
from gspo.observe.report.run import Run

__all__ = ["CLIP_FRACTIONS", "band_in_force", "clip_is_misfit", "clip_words", "healthy_words", "with_values"]

CLIP_FRACTIONS = ("actor/pg_clipfrac", "actor/seq_clipfrac")
# Between the widest ranges of sequence ratios in use (3e-4 to 1e-2) and the narrowest of token ratios (0.1).
_SEQUENCE_RANGE = 0.03
_KEY = re.compile(r"\b(?:actor_rollout_ref|algorithm|critic|data|reward|trainer)(?:\.[a-z_0-9]+)+(?![\w.=]*=)")


def band_in_force(run: Run, key: str) -> Band | None:
    """Where a metric is healthy in this run; None where no range is known or nothing can act."""
    if key not in CLIP_FRACTIONS:
        return MEANINGS[key].band
    loss = run.loss
    if loss.clip is None or (key == "actor/seq_clipfrac" and not loss.sequence_clip):
        return None
    if run.updates_per_rollout() == 1:
        return None
    return loss.clip_band or (SEQUENCE_BAND if loss.sequence_clip else TOKEN_BAND)


def healthy_words(run: Run, key: str) -> str:
    """The same in words, with what it depends on."""
    if key in CLIP_FRACTIONS and run.updates_per_rollout() == 1:
        return "0: with one optimizer step per rollout the ratio is one"
    if key == "actor/ppo_kl" and run.updates_per_rollout() == 1:
        return "near 0: one optimizer step per rollout"
    band = band_in_force(run, key)
    if band is None:
        return MEANINGS[key].healthy
    words = MEANINGS[key].healthy or str(band)
    return f"{words}, with the clip at {clip_words(run)}" if key in CLIP_FRACTIONS else words


def clip_words(run: Run) -> str:
    """The clip range as it was set."""
    low, high = run.clip_range or (0.0, 0.0)
    return f"{exact(low)} / {exact(high)}"


def clip_is_misfit(run: Run) -> str:
    """What is wrong with the clip range for this loss's ratio; empty where nothing is."""
    clip = run.clip_range
    if clip is None or run.loss.clip is None:
        return ""
    if run.loss.sequence_clip and max(clip) > _SEQUENCE_RANGE:
        return (
            f"{clip_words(run)} is a range of token ratios, and {run.loss.name} clips a sequence's, which hardly "
            f"leaves 1: {_usual(run)} is usual"
        )
    if not run.loss.sequence_clip and max(clip) < _SEQUENCE_RANGE:
        return (
            f"{clip_words(run)} is a range of sequence ratios, and {run.loss.name} clips each token's: {_usual(run)} "
            "is usual"
        )
    return ""


def _usual(run: Run) -> str:
    low, high = run.loss.clip or (0.2, 0.2)
    return f"{exact(low)} / {exact(high)}"


def with_values(run: Run, text: str) -> str:
    """Advice with the value in force behind each key that it names."""
    told: set[str] = set()

    def add(match: re.Match[str]) -> str:
        value = run.setting(match[0])
        if match[0] in told or not isinstance(value, (int, float, str)):
            return match[0]
        told.add(match[0])
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        return f"{match[0]} (now {shown})"

    return _KEY.sub(add, text)
