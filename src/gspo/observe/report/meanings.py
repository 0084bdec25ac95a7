"""What each metric means, where it is healthy, and which setting moves it.

The bands of the clip fractions are those of the policy loss (`gspo.methods`). A band is where people start to look, not
a law.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gspo.methods import SEQUENCE_BAND, TOKEN_BAND, Band, PolicyLoss

__all__ = ["MEANINGS", "Band", "Meaning", "Status"]

Status = Literal["healthy", "watch", "problem", "unknown"]


@dataclass(frozen=True)
class Meaning:
    """One metric for a reader.

    Attributes:
        label: its name in words.
        text: what it tells, in a sentence.
        lever: what to change where it is not healthy.
        healthy: what is healthy, in words, for a metric that is judged by its course and not by a band.
        band: where it is healthy.
        sequence_band: of a clip fraction, the same where the clip is of sequence ratios; the policy loss says which.
    """

    label: str
    text: str
    lever: str
    healthy: str = ""
    band: Band | None = None
    sequence_band: Band | None = None

    def band_for(self, loss: PolicyLoss) -> Band | None:
        """Where it is healthy under a policy loss; None where nothing can be said."""
        if self.sequence_band is None:
            return self.band
        return loss.clip_band if loss.sequence_clip or self.band is not None else None

    def healthy_words(self, loss: PolicyLoss) -> str:
        """The same in words."""
        band = self.band_for(loss)
        return self.healthy if band is None else str(band)


_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_CLIP_LEVER = f"{_ACTOR}.clip_ratio_low and {_ACTOR}.clip_ratio_high (wider clips less), or a lower {_ACTOR}.optim.lr"

MEANINGS: dict[str, Meaning] = {
    "held-out": Meaning(
        "Held-out accuracy",
        "Share of held-out prompts answered correctly: the measure of success.",
        f"more steps, a higher {_ACTOR}.optim.lr, or easier prompts if the reward does not move either",
        healthy="rises",
    ),
    "critic/score/mean": Meaning(
        "Reward",
        "Mean reward of the sampled training responses; the pale band spans the batch's lowest and highest.",
        f"{_ACTOR}.optim.lr and {_ROLLOUT}.n; or prompts that are neither solved nor hopeless",
        healthy="rises, then levels off",
    ),
    "train/loss": Meaning(
        "Training loss",
        "Cross-entropy on the answers, in nats a token.",
        f"{_ACTOR}.optim.lr, or more steps",
        healthy="falls",
    ),
    "val/loss": Meaning(
        "Held-out loss",
        "Cross-entropy on held-out answers, in nats a token.",
        "fewer steps, or more data, where it rises while the training loss falls",
        healthy="falls",
    ),
    "group/zero_spread": Meaning(
        "Groups without a signal",
        "Share of prompts whose responses all got the same reward. Their advantages are zero, so they teach nothing.",
        f"a larger {_ROLLOUT}.n, a higher {_ROLLOUT}.temperature, or prompts of middling difficulty",
        band=Band(high=0.5, ceiling=0.75),
    ),
    "response_length/mean": Meaning(
        "Response length",
        "Mean length of the sampled responses, in tokens; the pale band spans the shortest and the longest.",
        "a length reward, or data.max_response_length",
        healthy="grows only with the reward",
    ),
    "response_length/clip_ratio": Meaning(
        "Cut at the limit",
        "Share of responses that hit the token limit before they ended. A cut answer cannot be judged fairly.",
        "a larger data.max_response_length, or a length reward",
        band=Band(high=0.05, ceiling=0.15),
    ),
    "actor/pg_clipfrac": Meaning(
        "Clip fraction, tokens",
        "Share of response tokens whose gradient the clip took out.",
        _CLIP_LEVER,
        band=TOKEN_BAND,
        sequence_band=SEQUENCE_BAND,
    ),
    "actor/seq_clipfrac": Meaning(
        "Clip fraction, sequences",
        "Share of responses whose gradient the clip took out as a whole.",
        _CLIP_LEVER,
        sequence_band=SEQUENCE_BAND,
    ),
    "actor/ppo_kl": Meaning(
        "KL to the sampling policy",
        "How far the updates of one step move the policy from the one that sampled, in nats per token.",
        f"a lower {_ACTOR}.optim.lr, or fewer optimizer steps per rollout (a larger {_ACTOR}.ppo_mini_batch_size)",
        band=Band(low=-0.02, high=0.02, floor=-0.1, ceiling=0.1),
    ),
    "actor/kl_loss": Meaning(
        "KL to the reference",
        "How far the policy has moved from the model it started as, in nats per token.",
        f"{_ACTOR}.kl_loss_coef",
        band=Band(high=0.5, ceiling=2.0),
    ),
    "actor/entropy": Meaning(
        "Entropy",
        "How undecided the policy is on the next token, in nats. It falls as it learns; at zero it tries nothing.",
        f"{_ACTOR}.entropy_coeff, a higher {_ROLLOUT}.temperature, or a wider {_ACTOR}.clip_ratio_high",
        healthy="falls slowly, stays above a third of its start",
    ),
    "actor/grad_norm": Meaning(
        "Gradient norm",
        "Length of the gradient before it is clipped. Spikes are bad batches; zero is a batch without a signal.",
        f"{_ACTOR}.optim.clip_grad, or a lower {_ACTOR}.optim.lr",
        healthy="steady, without spikes",
    ),
    "critic/d_acc": Meaning(
        "Discriminator accuracy",
        "Share of pairs in which the discriminator scores the teacher's response above the student's. At one half it "
        "tells nothing apart; near one the student gets no hint of what is better.",
        "near one half: trainer.critic_warmup, critic.optim.lr. Near one: critic.discriminator.temperature or margin, "
        "a lower critic.optim.lr, a smaller critic.model.path, trainer.gad_warmup_epochs",
        band=Band(low=0.55, high=0.95),
    ),
    "critic/margin": Meaning(
        "Discriminator margin",
        "Mean of the teacher's score less the student's. It grows while the discriminator wins and shrinks while the "
        "student does; its level says nothing.",
        "critic.discriminator.score_l2 where it grows without end",
        healthy="levels off",
    ),
    "critic/vf_explained_var": Meaning(
        "Explained variance",
        "How much of the returns' variance the critic's values explain, before its update. One is perfect; below zero "
        "the values are worse than a constant, and the advantages noisier than plain returns.",
        "trainer.critic_warmup, a higher critic.optim.lr, or more critic.ppo_epochs",
        band=Band(low=0.0),
    ),
    "critic/vf_loss": Meaning(
        "Value loss",
        "Half the squared error of the critic's values, clipped, as it is trained.",
        "critic.optim.lr, critic.ppo_epochs and critic.cliprange_value",
        healthy="falls, then levels off",
    ),
}
