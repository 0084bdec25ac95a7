"""What the configuration says of losses and advantages, from their rows: the lines of keys, the tables of the page."""

from __future__ import annotations

from collections.abc import Iterable

from gspo.methods import ADVANTAGES, LOSSES, PolicyLoss

__all__ = ["ADVANTAGE_LINE", "AGGREGATION_LINE", "CLIP_LINE", "LOSS_LINE", "advantage_table", "loss_table"]

Table = tuple[tuple[str, ...], list[tuple[str, ...]]]  # header and rows


def _names(loss: PolicyLoss) -> str:
    return f"{loss.name} (or {', '.join(loss.aliases)})" if loss.aliases else loss.name


def _clip(loss: PolicyLoss) -> str:
    if loss.clip is None:
        return "none"
    low, high = loss.clip
    return f"{low:g}" if low == high else f"{low:g} / {high:g}"


def _by_fact(facts: Iterable[tuple[str, str]]) -> str:
    """Names by what they have in common: `0.2: vanilla; 0.4: geo_mean`."""
    names: dict[str, list[str]] = {}
    for name, fact in facts:
        names.setdefault(fact, []).append(name)
    return "; ".join(f"{fact}: {', '.join(found)}" for fact, found in names.items())


_WITH_CRITIC = ", ".join(row.name for row in ADVANTAGES.values() if row.needs_values)
_WITHOUT = ", ".join(row.name for row in ADVANTAGES.values() if not row.needs_values)
_CLIPS = _by_fact((loss.name, _clip(loss)) for loss in LOSSES.values())
_AGGREGATIONS = _by_fact((loss.name, loss.aggregation) for loss in LOSSES.values())

LOSS_LINE = f"Policy loss: {', '.join(map(_names, LOSSES.values()))} or one of your own."
ADVANTAGE_LINE = f"Advantage: {_WITHOUT}, {_WITH_CRITIC} (trains a critic) or one of your own."
CLIP_LINE = f"Clip range of both sides; null: the loss's own ({_CLIPS})."
AGGREGATION_LINE = f"From token losses to one number; null: the loss's own ({_AGGREGATIONS})."


def _yes(fact: bool) -> str:
    return "yes" if fact else "no"


def loss_table() -> Table:
    """Header and rows of the table of policy losses."""
    header = (
        "Name",
        "Clips",
        "Clip range",
        "Aggregation",
        "Advantage zero adds nothing",
        "Advantage zero never clips",
        "Healthy share of clipped tokens",
        "Source",
    )
    rows: list[tuple[str, ...]] = [
        (
            ", ".join(f"`{name}`" for name in (loss.name, *loss.aliases)),
            "no" if loss.clip is None else "responses" if loss.sequence_clip else "tokens",
            _clip(loss),
            f"`{loss.aggregation}`",
            _yes(loss.zero_advantage_is_zero),
            _yes(loss.zero_advantage_never_clips),
            "" if loss.clip_band is None else str(loss.clip_band),
            loss.source,
        )
        for loss in LOSSES.values()
    ]
    return header, rows


def advantage_table() -> Table:
    """Header and rows of the table of advantages."""
    header = (
        "Name",
        "Compares the responses of a prompt",
        "Trains a critic",
        "Responses of a prompt, at least",
        "Whitened over the batch",
        "Each reward on its own",
        "Source",
    )
    rows: list[tuple[str, ...]] = [
        (
            f"`{row.name}`",
            _yes(row.compares_groups),
            _yes(row.needs_values),
            str(row.min_responses),
            _yes(row.whitens),
            _yes(row.per_reward),
            row.source,
        )
        for row in ADVANTAGES.values()
    ]
    return header, rows
