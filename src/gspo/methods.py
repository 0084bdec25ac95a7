"""One row of facts for each policy loss and each advantage: what a user may choose, and what follows from the choice.

The functions are in `gspo.algorithms`; a row holds what the configuration, the trainer, the report and the
documentation must know of one without calling it. Nothing here needs torch. A loss or an advantage of the user's own
adds its row when it is registered (`gspo.algorithms.register_policy_loss`, `register_advantage`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any, Literal, TypeVar

__all__ = [
    "ADVANTAGES",
    "AGGREGATIONS",
    "CISPO_CLIP",
    "DEFAULT_ADVANTAGE",
    "DEFAULT_LOSS",
    "ENGINES",
    "GEO_MEAN_CLIP",
    "GSPO_CLIP",
    "LOSSES",
    "PPO_CLIP",
    "SEQUENCE_BAND",
    "TOKEN_BAND",
    "Advantage",
    "AdvantageEstimator",
    "Band",
    "PolicyLoss",
    "Row",
    "declared",
    "is_own",
    "loss_named",
    "read_row",
    "written_row",
]

AGGREGATIONS = ("token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-mean", "seq-mean-token-sum-norm")

# (low, high): the ratio is clipped at 1 - low and 1 + high.
PPO_CLIP = (0.2, 0.2)  # PPO, arXiv 1707.06347, section 6.1
GSPO_CLIP = (3e-4, 4e-4)  # GSPO, arXiv 2507.18071, section 5.1; 0.2 practically never clips a sequence ratio
GEO_MEAN_CLIP = (0.4, 0.4)  # GMPO, arXiv 2507.20673, section 4: of the log-ratio, token ratios within (e^-0.4, e^0.4)
# CISPO, arXiv 2506.13585, section 3.1: no lower bound. The paper tunes the upper one without giving it; a largest
# weight of 5 is what reproductions of ScaleRL (arXiv 2510.13786) take.
CISPO_CLIP = (1.0, 4.0)

# Names of `actor_rollout_ref.rollout.name` that are registered, and what makes them (`gspo.rollout.register_engine`).
ENGINES: dict[str, Any] = {"local": None}


@dataclass(frozen=True)
class Band:
    """Healthy from `low` to `high`, a problem beyond `floor` and `ceiling`, and worth watching in between."""

    low: float = -math.inf
    high: float = math.inf
    floor: float = -math.inf
    ceiling: float = math.inf

    def status(self, value: float) -> Literal["healthy", "watch", "problem"]:
        """Which of the three a value is."""
        if not self.floor <= value <= self.ceiling:
            return "problem"
        return "healthy" if self.low <= value <= self.high else "watch"

    def __str__(self) -> str:
        if math.isinf(self.low):
            return f"at most {self.high:g}"
        if math.isinf(self.high):
            return f"at least {self.low:g}"
        return f"{self.low:g} to {self.high:g}"


# Share of response tokens that is clipped: about 0.001 with a token ratio, about 0.15 with a sequence ratio, of which a
# whole response is clipped at a time (arXiv 2507.18071, section 5). A band is where people start to look, not a law.
TOKEN_BAND = Band(high=0.1, ceiling=0.3)
SEQUENCE_BAND = Band(low=0.01, high=0.3, ceiling=0.5)


@dataclass(frozen=True)
class PolicyLoss:
    """What is known of a policy loss. The defaults are those of a loss that is registered without facts.

    Attributes:
        name: the value of `actor_rollout_ref.actor.policy_loss` that chooses it.
        sequence_clip: whether a clip takes out a whole response, by its sequence ratio, and not single tokens.
        clip: (low, high) where the user sets none; None: the loss does not clip.
        aggregation: `loss_agg_mode` where the user sets none.
        zero_advantage_is_zero: whether a response of advantage zero adds nothing to the loss and its gradient, so that
            it need not be run.
        zero_advantage_never_clips: whether no token of such a response counts as clipped.
        clip_band: healthy share of clipped tokens; where none is given, that of sequence or of token ratios. None in a
            loss that does not clip.
        token_form: the loss that keeps each token's own advantage, where this one takes their mean over a response;
            empty in one that keeps them itself.
        source: paper and equation.
        aliases: further names of the same loss.

    Raises:
        ValueError: a fact cannot be; says what it should be.
    """

    name: str
    sequence_clip: bool = False
    clip: tuple[float, float] | None = PPO_CLIP
    aggregation: str = "token-mean"
    zero_advantage_is_zero: bool = False
    zero_advantage_never_clips: bool = False
    clip_band: Band | None = None
    token_form: str = ""
    source: str = ""
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(
                f"policy loss {self.name!r}: aggregation={self.aggregation!r} is unknown: choose one of "
                f"{', '.join(AGGREGATIONS)}"
            )
        if self.clip is None:
            object.__setattr__(self, "clip_band", None)
            return
        pair = isinstance(self.clip, tuple) and len(self.clip) == 2
        if not pair or not (0 < self.clip[0] <= 1 and self.clip[1] > 0):
            raise ValueError(
                f"policy loss {self.name!r}: clip={self.clip!r} must be (low, high), above 0 and low at most 1, as in "
                "(0.2, 0.2); or None where the loss does not clip"
            )
        if self.clip_band is None:
            object.__setattr__(self, "clip_band", SEQUENCE_BAND if self.sequence_clip else TOKEN_BAND)


@dataclass(frozen=True)
class Advantage:
    """What is known of an advantage. The defaults are those of one that is registered without facts.

    Attributes:
        name: the value of `algorithm.adv_estimator` that chooses it.
        compares_groups: whether a response is measured against the others of its prompt.
        needs_values: whether it takes a critic's values, so that one is trained.
        min_responses: the fewest responses of a prompt with which it works.
        whitens: whether it is brought to mean 0 and deviation 1 over the whole batch.
        per_reward: whether each reward of a sum is normalised on its own, before they are added.
        token_level: whether it may differ from token to token of a response.
        source: paper and equation.

    Raises:
        ValueError: a fact cannot be; says what it should be.
    """

    name: str
    compares_groups: bool = True
    needs_values: bool = False
    min_responses: int = 1
    whitens: bool = False
    per_reward: bool = False
    token_level: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        if self.min_responses < 1:
            raise ValueError(f"advantage {self.name!r}: min_responses={self.min_responses!r} must be 1 or more")


class AdvantageEstimator(StrEnum):
    """The advantages of this package, under verl's names. Further ones are registered by a plain string."""

    GAE = "gae"
    GRPO = "grpo"
    GRPO_VECTORIZED = "grpo_vectorized"
    GRPO_PASSK = "grpo_passk"
    GDPO = "gdpo"
    RLOO = "rloo"
    RLOO_VECTORIZED = "rloo_vectorized"
    OPO = "opo"
    REINFORCE_PLUS_PLUS = "reinforce_plus_plus"
    REINFORCE_PLUS_PLUS_BASELINE = "reinforce_plus_plus_baseline"


_SEQUENCE_MEAN = "seq-mean-token-mean"
# With the clip on the side that the advantage's sign picks, a zero picks none.
_BY_SIGN: dict[str, Any] = {"zero_advantage_is_zero": True, "zero_advantage_never_clips": True}

DEFAULT_LOSS = "vanilla"
DEFAULT_ADVANTAGE = AdvantageEstimator.GRPO.value

_LOSSES = (
    PolicyLoss(
        DEFAULT_LOSS,
        **_BY_SIGN,
        source="PPO, arXiv 1707.06347, eq. 7; dual clip, arXiv 1912.09729",
        aliases=("ppo",),
    ),
    PolicyLoss(
        "gspo",
        sequence_clip=True,
        clip=GSPO_CLIP,
        aggregation=_SEQUENCE_MEAN,
        **_BY_SIGN,
        token_form="gspo_token",
        source="GSPO, arXiv 2507.18071, eqs. 5, 7",
    ),
    PolicyLoss(
        "gspo_token",
        sequence_clip=True,
        clip=GSPO_CLIP,
        aggregation=_SEQUENCE_MEAN,
        **_BY_SIGN,
        source="GSPO, arXiv 2507.18071, eqs. 13, 14",
    ),
    PolicyLoss("geo_mean", clip=GEO_MEAN_CLIP, aggregation=_SEQUENCE_MEAN, **_BY_SIGN, source="GMPO, arXiv 2507.20673"),
    # The weight is clipped whatever the advantage is.
    PolicyLoss("cispo", clip=CISPO_CLIP, zero_advantage_is_zero=True, source="CISPO, arXiv 2506.13585"),
    PolicyLoss("sapo", clip=None, aggregation=_SEQUENCE_MEAN, **_BY_SIGN, source="SAPO, arXiv 2511.20347"),
)

_RLOO = "arXiv 2402.14740"
_GRPO = "arXiv 2402.03300, section 4.1.2"
_REINFORCE = "arXiv 2501.03262"

_ADVANTAGES = (
    Advantage(
        "gae",
        compares_groups=False,
        needs_values=True,
        whitens=True,
        token_level=True,
        source="arXiv 1506.02438, eq. 16",
    ),
    Advantage("grpo", source=_GRPO),
    Advantage("grpo_vectorized", source=_GRPO),
    Advantage("grpo_passk", min_responses=2, source="arXiv 2503.19595"),
    Advantage("gdpo", whitens=True, per_reward=True, source="arXiv 2601.05242"),
    Advantage("rloo", source=_RLOO),
    Advantage("rloo_vectorized", source=_RLOO),
    Advantage("opo", source="arXiv 2505.23585"),
    Advantage("reinforce_plus_plus", compares_groups=False, whitens=True, token_level=True, source=_REINFORCE),
    Advantage("reinforce_plus_plus_baseline", whitens=True, source=_REINFORCE),
)

# By name. Registering a loss or an advantage adds its row.
LOSSES: dict[str, PolicyLoss] = {row.name: row for row in _LOSSES}
ADVANTAGES: dict[str, Advantage] = {row.name: row for row in _ADVANTAGES}

Row = TypeVar("Row", PolicyLoss, Advantage)


_PACKAGED = frozenset((*LOSSES, *ADVANTAGES))


def is_own(row: PolicyLoss | Advantage) -> bool:
    """Whether a row is the user's, and not one of this package."""
    return row.name not in _PACKAGED


def written_row(row: PolicyLoss | Advantage) -> dict[str, Any]:
    """A row as JSON holds it: an end of a band that is open is null."""
    facts = asdict(row)
    if band := facts.get("clip_band"):
        facts["clip_band"] = {end: None if math.isinf(value) else value for end, value in band.items()}
    return facts


def read_row(kind: type[Row], facts: Mapping[str, Any]) -> Row:
    """The row that `written_row` has written.

    Raises:
        TypeError, ValueError: it is none.
    """
    given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in facts.items()}
    if band := given.get("clip_band"):
        given["clip_band"] = Band(**{end: value for end, value in band.items() if value is not None})
    return kind(**given)


def loss_named(name: str) -> PolicyLoss | None:
    """The row of a policy loss by its name or an alias; None where there is none."""
    return LOSSES.get(name) or next((row for row in LOSSES.values() if name in row.aliases), None)


def declared(kind: type[Row], name: str, facts: dict[str, Any]) -> Row:
    """A row from facts given by name.

    Raises:
        TypeError: a fact is unknown; lists the known ones.
        ValueError: a fact cannot be.
    """
    known = [field.name for field in fields(kind) if field.name not in ("name", "aliases")]
    if unknown := [fact for fact in facts if fact not in known]:
        raise TypeError(f"{name!r} is registered with {unknown[0]}, which is no fact: the facts are {', '.join(known)}")
    return kind(name, **facts)
