"""How an algorithm reads its numbers: from a dataclass, any object with attributes, or a mapping (a DictConfig)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["PolicyLossSettings", "clip_range", "read_setting"]


@dataclass(frozen=True)
class PolicyLossSettings:
    """The numbers of a policy loss. None means the default of the loss that is called.

    Attributes:
        clip_ratio: clip range on both sides, where the two below are None.
        clip_ratio_low: the ratio is clipped at 1 - clip_ratio_low.
        clip_ratio_high: the ratio is clipped at 1 + clip_ratio_high.
        clip_ratio_c: `vanilla`: bound c > 1 of the ratio for negative advantages (dual clip).
        loss_scale_factor: tokens, for the mode seq-mean-token-sum-norm.
        tau_pos: SAPO's temperature of the gate for positive advantages.
        tau_neg: the same for the others.
        global_batch_info: normalisers of the optimizer batch for `agg_loss`: dp_size, batch_num_tokens,
            global_batch_size, loss_scale_factor.
    """

    clip_ratio: float | None = None
    clip_ratio_low: float | None = None
    clip_ratio_high: float | None = None
    clip_ratio_c: float | None = None
    loss_scale_factor: float | None = None
    tau_pos: float | None = None
    tau_neg: float | None = None
    global_batch_info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("clip_ratio", "clip_ratio_low", "clip_ratio_high"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name} is a distance from the ratio 1 and cannot be negative, got {value}")


def read_setting(config: Any, name: str, default: Any = None) -> Any:
    """`config`'s value of `name`: an attribute, or a mapping's item; `default` where there is none or it is None."""
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    return default if value is None else value


def clip_range(config: Any, default_low: float, default_high: float) -> tuple[float, float]:
    """(low, high) of a clip: each side's own setting, else `clip_ratio`, else the default.

    Raises:
        ValueError: a side is negative.
    """
    both = read_setting(config, "clip_ratio")
    low = float(read_setting(config, "clip_ratio_low", default_low if both is None else both))
    high = float(read_setting(config, "clip_ratio_high", default_high if both is None else both))
    if low < 0 or high < 0:
        raise ValueError(f"clip_ratio_low={low} and clip_ratio_high={high} are distances and cannot be negative")
    return low, high
