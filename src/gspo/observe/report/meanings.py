"""What each metric means, and what to change where it is too high and where it is too low.

A band is where people start to look, not a law. Which band holds is for `ranges` to say: it depends on what was set.
"""

from __future__ import annotations

from dataclasses import dataclass

from gspo.methods import Band

__all__ = ["MEANINGS", "Band", "Meaning"]


@dataclass(frozen=True)
class Meaning:
    """One metric for a reader.

    Attributes:
        label: its name in words.
        text: what it tells, in a sentence.
        too_high: what to change where it is above its range or rises where it should not.
        too_low: what to change where it is below its range or falls where it should not.
        healthy: what is healthy, in words, for a metric that is judged by its course and not by a band.
        band: where it is healthy, whatever is set.
    """

    label: str
    text: str
    too_high: str = ""
    too_low: str = ""
    healthy: str = ""
    band: Band | None = None


_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
_SLOWER = f"a lower {_ACTOR}.optim.lr"
_LESS_CLIPPED = f"{_SLOWER}, or a wider range ({_ACTOR}.clip_ratio_low, {_ACTOR}.clip_ratio_high)"
_MORE_CLIPPED = f"a narrower range ({_ACTOR}.clip_ratio_low, {_ACTOR}.clip_ratio_high), or a higher {_ACTOR}.optim.lr"

MEANINGS: dict[str, Meaning] = {
    "held-out": Meaning(
        "Held-out accuracy",
        "Share of held-out prompts answered correctly: the measure of success.",
        too_low=f"if it fell: {_SLOWER}, or the checkpoint of its best step. If it never rose: more steps, or easier "
        "prompts",
        healthy="rises",
    ),
    "critic/score/mean": Meaning(
        "Reward",
        "Mean reward of the sampled training responses; the pale band spans the batch's lowest and highest.",
        too_low=f"if it fell: {_SLOWER}. If it never rose: prompts that are neither solved nor hopeless, a larger "
        f"{_ROLLOUT}.n",
        healthy="rises, then levels off",
    ),
    "train/loss": Meaning(
        "Training loss",
        "Cross-entropy on the answers, in nats a token.",
        too_high=f"{_SLOWER} if it rises, a higher one if it stands still, more steps if it still falls",
        healthy="falls",
    ),
    "val/loss": Meaning(
        "Held-out loss",
        "Cross-entropy on held-out answers, in nats a token.",
        too_high="fewer steps, or more data",
        healthy="falls",
    ),
    "group/zero_spread": Meaning(
        "Groups without a signal",
        "Share of prompts whose responses all got the same reward. Their advantages are zero, so they teach nothing.",
        too_high=f"solved groups: harder prompts. Hopeless ones: easier prompts, or a larger {_ROLLOUT}.n. Both: "
        "algorithm.filter_groups.enable=true",
        healthy="few hopeless ones; solved ones grow as the prompts are learned",
        band=Band(high=0.5, ceiling=0.75),
    ),
    "response_length/mean": Meaning(
        "Response length",
        "Mean length of the sampled responses, in tokens; the pale band spans the shortest and the longest.",
        too_high="a length reward, or a smaller data.max_response_length",
        too_low=f"{_SLOWER}; see whether the reward is better for empty answers",
        healthy="grows only with the reward",
    ),
    "response_length/clip_ratio": Meaning(
        "Cut at the limit",
        "Share of responses that hit the token limit before they ended. A cut answer cannot be judged fairly.",
        too_high="a larger data.max_response_length, or a length reward",
        band=Band(high=0.05, ceiling=0.15),
    ),
    "reward/errors": Meaning(
        "Reward errors",
        "Share of responses on which the reward function failed.",
        too_high="the reward function (samples.jsonl has each error), or reward.timeout",
        band=Band(high=0.0, ceiling=0.1),
    ),
    "reward/abstained": Meaning(
        "Unjudged responses",
        "Share of responses that the reward function could not judge; they take no part.",
        too_high="the rows' ground truths (samples.jsonl has each reason)",
        band=Band(high=0.01, ceiling=0.2),
    ),
    "actor/pg_clipfrac": Meaning(
        "Clip fraction, tokens",
        "Share of response tokens whose gradient the clip took out, of the groups that have a signal.",
        too_high=_LESS_CLIPPED,
        too_low=_MORE_CLIPPED,
    ),
    "actor/seq_clipfrac": Meaning(
        "Clip fraction, sequences",
        "Share of responses whose gradient the clip took out as a whole, of the groups that have a signal.",
        too_high=_LESS_CLIPPED,
        too_low=_MORE_CLIPPED,
    ),
    "actor/ppo_kl": Meaning(
        "KL to the sampling policy",
        "How far the updates of one step move the policy from the one that sampled, in nats per token.",
        too_high=f"{_SLOWER}, or fewer optimizer steps per rollout (a larger {_ACTOR}.ppo_mini_batch_size)",
        too_low=f"{_SLOWER}: the policy gives up what it sampled faster than a small step would",
        band=Band(low=-0.02, high=0.02, floor=-0.1, ceiling=0.1),
    ),
    "actor/kl_loss": Meaning(
        "KL to the reference",
        "How far the policy has moved from the model it started as, in nats per token.",
        too_high=f"a larger {_ACTOR}.kl_loss_coef, or {_SLOWER}",
        band=Band(high=0.5, ceiling=2.0),
    ),
    "actor/entropy": Meaning(
        "Entropy",
        "How undecided the policy is on the next token, in nats. It falls as it learns; at zero it tries nothing.",
        too_high=f"{_SLOWER}, or a smaller {_ACTOR}.entropy_coeff",
        too_low=f"a larger {_ACTOR}.entropy_coeff, a wider {_ACTOR}.clip_ratio_high, or {_SLOWER}",
        healthy="falls slowly, stays above a third of its start",
    ),
    "actor/grad_norm": Meaning(
        "Gradient norm",
        "Length of the gradient before it is clipped. Spikes are bad batches; zero is a batch without a signal.",
        too_high=f"a smaller {_ACTOR}.optim.clip_grad, or {_SLOWER}",
        too_low="prompts that are neither solved nor hopeless",
        healthy="steady, without spikes",
    ),
    "actor/skipped_steps": Meaning(
        "Skipped updates",
        "Share of optimizer steps left out because the gradient was not finite.",
        too_high=f"{_SLOWER}, or actor_rollout_ref.model.dtype=float32",
        band=Band(high=0.0, ceiling=0.1),
    ),
    "critic/d_acc": Meaning(
        "Discriminator accuracy",
        "Share of pairs in which the discriminator scores the teacher's response above the student's. At one half it "
        "tells nothing apart; near one the student gets no hint of what is better.",
        too_high="a larger critic.discriminator.temperature, a lower critic.optim.lr, a smaller critic.model.path, or "
        "a longer trainer.gad_warmup_epochs",
        too_low="more trainer.critic_warmup, or a higher critic.optim.lr; see that teacher_response is another text in "
        "each row",
        band=Band(low=0.55, high=0.95),
    ),
    "critic/d_loss": Meaning(
        "Discriminator loss",
        "Bradley-Terry loss of a pair, -log sigmoid(teacher's score - student's). At log 2 = 0.69 it tells nothing "
        "apart. It falls while the discriminator trains, then moves about: the student moves too.",
        healthy="below 0.69",
    ),
    "critic/margin": Meaning(
        "Teacher gap",
        "Mean of the teacher's score less the student's. It grows while the discriminator wins and shrinks while the "
        "student does; the level of either score says nothing.",
        too_high="a larger critic.discriminator.score_l2, or a lower critic.optim.lr",
        healthy="levels off",
    ),
    "critic/length_acc": Meaning(
        "Told apart by length",
        "How well the length alone tells teacher from student. As good as the discriminator, and the discriminator may "
        "know no more than that.",
        too_high="a longer trainer.gad_warmup_epochs, a larger data.max_response_length",
        healthy="below the discriminator's accuracy",
    ),
    "critic/eos_acc": Meaning(
        "Told apart by the end",
        "How well the end token alone tells teacher from student: one that is cut has none.",
        too_high="a larger data.max_response_length, so that neither is cut",
        healthy="below the discriminator's accuracy",
    ),
    "val-aux/gad/rouge_l": Meaning(
        "Overlap with the teacher",
        "What a held-out response shares with the teacher's text (F1 of the longest common subsequence). The "
        "discriminator never sees it: a measure of success.",
        too_low=f"{_SLOWER}, or a longer trainer.gad_warmup_epochs",
        healthy="rises, then levels off",
    ),
    "critic/vf_explained_var": Meaning(
        "Explained variance",
        "How much of the returns' variance the critic's values explain, before its update. One is perfect; below zero "
        "the values are worse than a constant, and the advantages noisier than plain returns.",
        too_low="more trainer.critic_warmup, a higher critic.optim.lr, or more critic.ppo_epochs",
        band=Band(low=0.0),
    ),
    "critic/vf_loss": Meaning(
        "Value loss",
        "Half the squared error of the critic's values, clipped, as it is trained.",
        too_high="a higher critic.optim.lr, or more critic.ppo_epochs",
        healthy="falls, then levels off",
    ),
}
